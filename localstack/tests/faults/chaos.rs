//! A network on which anything is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use localstack::{Fate, Proxy};
use tokio::time::{Instant, sleep};

use crate::load::Load;

const LIMIT: Duration = Duration::from_mins(10);

/// How often each of these happened to a request: passed, answer lost, answer cut in the middle, held back.
type Counts = [AtomicU64; 4];

/// Until `load` has changed so many rows more, and each of it has happened: requests are held back, answers get lost or
/// end in the middle, connections are cut, and refused for a moment. At the end the proxy passes everything, and what was
/// held back last.
pub async fn reign(proxy: &Proxy, load: &Load, changes: u64, seed: u64) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let counts = Arc::new(Counts::default());
    let (mut choice, counted) = (random.fork(), Arc::clone(&counts));
    proxy.decide(move |_| {
        let (index, fate) = match choice.u8(..20) {
            0..2 => (1, Fate::CutAnswer(0)),
            2..4 => (2, Fate::CutAnswer(choice.usize(1..400))),
            4 => (3, Fate::Hold),
            _ => (0, Fate::Pass),
        };
        counted[index].fetch_add(1, Ordering::Relaxed);
        fate
    });
    let until = load.changes() + changes;
    // A function that waits between its tries asks little: chance may take its time.
    let limit = Instant::now() + LIMIT;
    let has_met_all = || counts.iter().all(|count| count.load(Ordering::Relaxed) > 0);
    let mut cuts = 0;
    while load.changes() < until || !has_met_all() {
        ensure!(Instant::now() < limit, "passed, lost, cut, held: {counts:?}; {} changes", load.changes());
        sleep(Duration::from_millis(random.u64(100..600))).await;
        if random.u8(..4) == 0 {
            proxy.close();
            sleep(Duration::from_millis(random.u64(..400))).await;
            proxy.open();
        } else {
            proxy.cut();
        }
        cuts += 1;
    }
    proxy.decide(|_| Fate::Pass);
    let released = proxy.release().await?.len();
    eprintln!("passed, lost, cut, held: {counts:?}; {cuts} cuts of all; {released} came late");
    Ok(())
}
