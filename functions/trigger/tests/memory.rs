//! Alone in its process, whose highest memory it looks at.

use anyhow::{Context, Result};

#[path = "main/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

/// What the template gives the function is 512 MB; a page is read while it is sent, so it takes a part of that.
const LIMIT_KB: u64 = 200 * 1024;

#[tokio::test]
async fn a_page_of_500_documents_of_3_mb_stays_within_the_functions_memory() -> Result<()> {
    let bench = support::Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute("INSERT INTO item SELECT i, repeat('x', 3000000) FROM generate_series(1, 500) AS i").await?;
    assert_eq!(bench.drain().await?.drained.to_read_again, 500);
    // And as much as fits into messages.
    owner.batch_execute("UPDATE item SET name = repeat('y', 230000)").await?;
    assert_eq!(bench.drain().await?.drained.documents, 500);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let highest = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let highest: u64 = highest.trim().trim_end_matches(" kB").parse()?;
    assert!(highest < LIMIT_KB, "{highest} kB");
    Ok(())
}
