//! After a restore or a copy: the position in the log means nothing, and the index may have what the source has not.

use database::{Read, Stream};
use elasticsearch::Elasticsearch;
use tokio_postgres::Client;

use crate::{
    Report,
    error::{Error, query},
    scan::Scan,
};

/// Begins anew from what the source is now. The drain does the work: every row is read and written again, with a version
/// above any in the indexes; keys that only an index has are read too, found missing, and deleted.
pub(crate) async fn rebase(client: &Client, elasticsearch: &Elasticsearch, report: &mut Report) -> Result<(), Error> {
    let streams = database::streams(client).await.map_err(query("reading the streams"))?;
    let mut live: Vec<(&Stream, &str)> =
        streams.values().filter_map(|stream| Some((stream, stream.live_index.as_deref()?))).collect();
    live.sort_by_key(|(stream, _)| &stream.name);

    let mut version = 0;
    for (_, index) in &live {
        let mut scan = Scan::new(elasticsearch, index);
        while let Some(page) = scan.next().await? {
            version = page.iter().map(|found| found.version).fold(version, i64::max);
        }
    }
    client.execute("SELECT sluice.rebase($1)", &[&version]).await.map_err(query("setting the position to now"))?;
    report.say(format!("the position is now, versions go on above {version}"));

    for (stream, index) in live {
        if stream.source.is_none() {
            report.say(format!("stream {}: fed by sluice.emit, left as it is", stream.name));
            continue;
        }
        let surplus = remove_surplus(client, elasticsearch, stream, index).await?;
        let name = &stream.name;
        report.say(format!("stream {name}: reads every row again, and {surplus} keys that only its index has"));
    }
    Ok(())
}

/// Has the drain look at each key that the index has and the source has not. How many there are.
async fn remove_surplus(
    client: &Client,
    elasticsearch: &Elasticsearch,
    stream: &Stream,
    index: &str,
) -> Result<usize, Error> {
    let mut scan = Scan::new(elasticsearch, index);
    let mut surplus = 0;
    while let Some(page) = scan.next().await? {
        let keys: Vec<String> = page.into_iter().map(|found| found.key).collect();
        // With no bytes allowed, what exists is too large, and no document travels.
        let mut reads = stream.read(client, keys.clone(), 0, None);
        let mut missing = Vec::new();
        while let Some((position, read)) = reads.next().await? {
            if !matches!(read, Read::TooLarge { .. } | Read::Document(_)) {
                missing.push(keys[position].as_str());
            }
        }
        if !missing.is_empty() {
            let sent = client.execute("SELECT sluice.resync($1, $2)", &[&stream.name, &missing]).await;
            sent.map_err(query("logging the keys that only the index has"))?;
            surplus += missing.len();
        }
    }
    Ok(surplus)
}
