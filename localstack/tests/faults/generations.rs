//! Another mapping, while everything goes on, and much of it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use elasticsearch::http::Method;
use fastrand::Rng;
use localstack::{Fate, Measure, PATIENCE, Proxy, Run, Searcher, Service, Sought, variable};
use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::pipeline::{Pipeline, alone};
use crate::validation::{compare, differences};

/// Rows for a generation to be filled with, and two documents with a number that rises. The load's ids are smaller.
const ROWS: &str = "
    INSERT INTO item SELECT n, 'first' FROM generate_series(10001, 13000) AS n;
    INSERT INTO item VALUES (5000, 'rises', 1);
    INSERT INTO owner SELECT n, 'first' FROM generate_series(10001, 10050) AS n;
    INSERT INTO owner VALUES (5000, '1');
    INSERT INTO project SELECT n, 10001 + n % 50, 'first' FROM generate_series(10001, 12000) AS n;
    INSERT INTO project VALUES (5000, 5000, 'rises')";
/// Where the names were keywords.
const ANOTHER: &str = r#"
    SELECT sluice.define_stream('fault_mapping_item', source => 'fault_mapping.item', key => 'id', mapping =>
        '{"properties": {"id": {"type": "integer"}, "name": {"type": "text"}, "n": {"type": "integer"}}}');
    SELECT sluice.define_stream('fault_mapping_project', source => 'fault_mapping.project_document', key => 'id', mapping =>
        '{"properties": {"id": {"type": "integer"}, "title": {"type": "text"}, "owner": {"type": "text"}}}')"#;
const BACK: &str = "SELECT sluice.roll_back('fault_mapping_item'), sluice.roll_back('fault_mapping_project')";
const STREAMS: [&str; 2] = ["fault_mapping_item", "fault_mapping_project"];
/// While generations are on their way to change places: then they are left alone for long enough.
const KILLS: u32 = 6;
/// Between two statements of a writer: each change is written twice, and what comes faster than it can be piles up.
const PAUSE: Duration = Duration::from_millis(40);

/// No search fails, finds nothing, or finds less than is known to have arrived, and neither generation loses anything. Each step is
/// interrupted: functions are killed while a generation is filled, compared and takes over, Elasticsearch is killed and starts again, and
/// the answer is lost by which the alias has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mapping_takes_over_and_goes_back_among_kills_and_outages_and_nobody_who_searches_notices() -> Result<()>
{
    alone("fault_mapping", async |pipeline| {
        pipeline.configure("INDEXER_FUNCTION", "SECOND_LOOK_AFTER", "2s").await?;
        // Each step is a message for each stream and each generation, of which LocalStack takes few a second. What it has no room for waits in
        // the log, and becomes larger messages.
        pipeline.configure("TRIGGER_FUNCTION", "POLL_INTERVAL", "1s").await?;
        pipeline.configure("TRIGGER_FUNCTION", "MAX_QUEUE_DEPTH", 40).await?;
        let proxy = pipeline.elasticsearch_by_proxy().await?;
        pipeline.kill(Service::Validate).await?;
        // What other tests have left would take up the queue's room, with second looks that come in minutes; and what they have lost
        // lags behind until it is logged again. Nobody waits for either.
        if pipeline.stack.run.has_queue() {
            pipeline.stack.sqs.purge_queue().queue_url(variable("QUEUE_URL")).send().await?;
        }
        pipeline.stack.execute("DELETE FROM sluice.flight").await?;
        pipeline.stack.execute(ROWS).await?;
        pipeline.is_converged().await?;
        let mut random = Rng::with_seed(pipeline.seed);
        let mut load = pipeline.load_with(PAUSE).await?;
        load.add(random.fork(), raise).await?;
        let sought = |stream: &str, field: &str| Sought {
            alias: stream.to_owned(),
            key: "5000".to_owned(),
            field: field.to_owned(),
        };
        let searcher = Searcher::start(vec![sought(STREAMS[0], "n"), sought(STREAMS[1], "owner")], Measure::Arrived)?;

        let is_lost = loses_the_first_move(&proxy);
        pipeline.stack.execute(ANOTHER).await?;
        let told = pipeline.stack.migrate().await?;
        ensure!(told.matches("began generation 2").count() == STREAMS.len(), "{told}");
        fails(pipeline, &load, &searcher, &mut random).await?;
        changes_places(pipeline, &is_lost, &searcher, &mut random, 2).await?;
        is_equal(pipeline).await?;

        let is_lost = loses_the_first_move(&proxy);
        pipeline.stack.execute(BACK).await?;
        fails(pipeline, &load, &searcher, &mut random).await?;
        changes_places(pipeline, &is_lost, &searcher, &mut random, 1).await?;
        is_equal(pipeline).await?;

        let is_lost = loses_the_first_move(&proxy);
        pipeline.stack.execute(BACK).await?;
        changes_places(pipeline, &is_lost, &searcher, &mut random, 2).await?;
        let searches = searcher.stop().await?;
        ensure!(searches > 100, "{searches} searches are too few");
        pipeline.say(&format!("{searches} searches"));
        pipeline.converges(load).await?;
        // Those that are kept have lost nothing either.
        pipeline.stack.converges("fault_mapping_item.g1", "SELECT id::text FROM item").await?;
        pipeline.stack.converges("fault_mapping_project.g1", "SELECT id::text FROM project").await?;
        Ok(())
    })
    .await
}

fn raise(random: &mut Rng) -> String {
    if random.bool() {
        "UPDATE item SET n = n + 1 WHERE id = 5000".to_owned()
    } else {
        "UPDATE owner SET name = (name::bigint + 1)::text WHERE id = 5000".to_owned()
    }
}

/// Functions are killed, and Elasticsearch is, and starts again.
async fn fails(pipeline: &Pipeline, load: &Load, searcher: &Searcher, random: &mut Rng) -> Result<()> {
    kill_some(pipeline, random, 2).await?;
    let outage = async {
        Service::Elasticsearch.signal("KILL")?;
        load.goes_on(200).await;
        kill_some(pipeline, random, 1).await?;
        Service::Elasticsearch.start()
    };
    searcher.during_an_outage(outage).await?;
    pipeline.say("Elasticsearch was away");
    load.goes_on(100).await;
    kill_some(pipeline, random, 1).await
}

async fn kill_some(pipeline: &Pipeline, random: &mut Rng, kills: u32) -> Result<()> {
    for _ in 0..kills {
        sleep(Duration::from_millis(random.u64(50..1000))).await;
        let who = [Service::Trigger, Service::Indexer, Service::Validate];
        pipeline.kill(who[random.usize(..who.len())]).await?;
    }
    Ok(())
}

/// The next time that an alias moves nobody hears of it; then it is true. In one process it may move at any time.
fn loses_the_first_move(proxy: &Proxy) -> Arc<AtomicBool> {
    let is_lost = Arc::new(AtomicBool::new(false));
    let loses = Arc::clone(&is_lost);
    proxy.decide(move |request| {
        let moves = request.starts_with("POST /_aliases") && !loses.swap(true, Ordering::Relaxed);
        if moves { Fate::CutAnswer(0) } else { Fate::Pass }
    });
    is_lost
}

/// Waits until these generations are live. Some of those who lead them there are killed.
async fn changes_places(
    pipeline: &Pipeline,
    is_lost: &AtomicBool,
    searcher: &Searcher,
    random: &mut Rng,
    number: i32,
) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut kills = 0;
    let mut written = numbers(pipeline).await?;
    loop {
        if has_arrived(pipeline, &written.0).await? {
            searcher.has_arrived(&written.1);
            written = numbers(pipeline).await?;
        }
        let query = "SELECT count(*) FILTER (WHERE state = 'live' AND number = $1),
                 string_agg(concat_ws(' ', stream, number, state, waits), '; ')
             FROM sluice.generations() WHERE stream LIKE 'fault_mapping%'";
        let row = pipeline.stack.owner.query_one(query, &[&number]).await?;
        if row.get::<_, i64>(0) == 2 {
            break;
        }
        ensure!(Instant::now() < until, "{number} is not live: {:?}", row.get::<_, Option<String>>(1));
        let kill = async {
            sleep(Duration::from_millis(random.u64(50..3000))).await;
            if kills == KILLS {
                return Ok(());
            }
            kills += 1;
            let who = [Service::Validate, Service::Validate, Service::Validate, Service::Trigger, Service::Indexer];
            pipeline.kill(who[random.usize(..who.len())]).await
        };
        let (_, killed) = tokio::join!(leads(pipeline), kill);
        killed?;
    }
    ensure!(is_lost.load(Ordering::Relaxed), "no alias has moved");
    pipeline.say(&format!("generation {number} is live, after {kills} kills"));
    Ok(())
}

/// A snapshot, and the numbers that it sees.
async fn numbers(pipeline: &Pipeline) -> Result<(String, [i64; 2])> {
    let query = "SELECT pg_current_snapshot()::text, (SELECT n::bigint FROM item WHERE id = 5000), (SELECT name::bigint FROM owner WHERE id = 5000)";
    let row = pipeline.stack.owner.query_one(query, &[]).await?;
    Ok((row.get(0), [row.get(1), row.get(2)]))
}

/// Whether what a snapshot sees is in the live indexes, and can be found.
async fn has_arrived(pipeline: &Pipeline, snapshot: &str) -> Result<bool> {
    for stream in STREAMS {
        let query = "SELECT sluice.settled('elasticsearch', $1::text::pg_snapshot, $2)";
        if !pipeline.stack.owner.query_one(query, &[&snapshot, &stream]).await?.get::<_, bool>(0) {
            return Ok(false);
        }
        let (status, told) = pipeline.stack.search(Method::Post, &format!("/{stream}/_refresh"), None).await?;
        ensure!(status.is_success(), "{told}");
    }
    Ok(true)
}

/// An invocation of the validator, which may be killed; where there are no functions it goes on by itself.
async fn leads(pipeline: &Pipeline) {
    if pipeline.stack.run == Run::Functions {
        let _ = pipeline.stack.invoke(&variable("VALIDATE_FUNCTION"), "{}").await;
    }
}

/// By the validator, whatever is written meanwhile.
async fn is_equal(pipeline: &Pipeline) -> Result<()> {
    for stream in STREAMS {
        let row = compare(pipeline, stream).await?;
        let found = differences(pipeline, stream).await?;
        ensure!(row["verdict"] == "equal" && found.is_empty(), "{row} {found}");
    }
    pipeline.say("they are equal to their sources");
    Ok(())
}
