//! What goes wrong and is put right by itself.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use localstack::eventually;

use crate::stack::{Stack, mapping};

#[tokio::test]
async fn a_stream_whose_source_fails_stops_no_other_and_is_complete_when_it_is_mended() -> Result<()> {
    let stack = Stack::connect("e2e_source").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, name text);
             CREATE VIEW item_document AS SELECT id, name FROM item;
             SELECT sluice.define_stream('e2e_source', source => 'e2e_source.item_document', key => 'id', mapping => '{0}');
             SELECT sluice.track('item', stream => 'e2e_source', key => 'id');
             SELECT sluice.define_stream('e2e_source_other', source => 'e2e_source.item', key => 'id', mapping => '{0}');
             SELECT sluice.track('item', stream => 'e2e_source_other', key => 'id')",
            mapping(&[("id", "integer"), ("name", "keyword")])
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("INSERT INTO item VALUES (1, 'before')").await?;
    stack.converges("e2e_source", "SELECT id::text FROM item").await?;
    stack.execute("DROP VIEW item_document; CREATE VIEW item_document AS SELECT id FROM item").await?;
    stack
        .execute("INSERT INTO item VALUES (2, 'while it is broken'); UPDATE item SET name = 'updated' WHERE id = 1")
        .await?;
    stack.converges("e2e_source_other", "SELECT id::text FROM item").await?;
    stack.execute("CREATE OR REPLACE VIEW item_document AS SELECT id, name FROM item").await?;
    stack.execute("GRANT SELECT ON item_document TO PUBLIC").await?;
    assert_eq!(stack.converges("e2e_source", "SELECT id::text FROM item").await?, 2);
    Ok(())
}

/// Stopped in the middle of a page, while it holds the subscription's lock.
#[tokio::test]
async fn a_frozen_drainer_is_replaced_and_does_no_harm_when_it_wakes() -> Result<()> {
    let stack = Stack::connect("e2e_frozen").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, name text);
             SELECT sluice.define_stream('e2e_frozen', source => 'e2e_frozen.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_frozen', key => 'id')",
            mapping(&[("id", "integer"), ("name", "keyword")])
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("INSERT INTO item SELECT i, 'first' FROM generate_series(1, 5000) AS i").await?;
    let writer = stack.session().await?;
    let holder =
        "SELECT a.client_port, a.pid FROM sluice.subscription s JOIN pg_stat_activity a ON a.pid = s.holder_pid
                  WHERE s.name = 'elasticsearch' AND a.xact_start IS NOT NULL";
    let superuser = crate::stack::superuser().await?;
    let (process, backend) = eventually("a drainer in the middle of a page", async || {
        // Kept busy, so that the look below finds it inside a transaction.
        writer.batch_execute("UPDATE item SET name = name || '.'").await.map_err(|error| error.to_string())?;
        let found = superuser.query_opt(holder, &[]).await.map_err(|error| error.to_string())?;
        let found = found.ok_or("nobody drains at this moment")?;
        let (port, backend): (i32, i32) = (found.get(0), found.get(1));
        let process = process_of_port(port as u16).map_err(|error| error.to_string())?;
        signal(process, "STOP").map_err(|error| error.to_string())?;
        let still = superuser.query_opt(holder, &[]).await.map_err(|error| error.to_string())?;
        if still.is_none() {
            signal(process, "CONT").map_err(|error| error.to_string())?;
            return Err("stopped it between two transactions".to_owned());
        }
        Ok((process, backend))
    })
    .await;
    let _other = stack.another_drainer()?;
    writer.batch_execute("UPDATE item SET name = 'last'; DELETE FROM item WHERE id <= 10").await?;
    eventually("another drainer to take over", async || {
        let query = "SELECT holder_pid FROM sluice.subscription WHERE name = 'elasticsearch'";
        let now: Option<i32> =
            superuser.query_one(query, &[]).await.map(|row| row.get(0)).map_err(|error| error.to_string())?;
        if now.is_some_and(|pid| pid != backend) { Ok(()) } else { Err(format!("held by {now:?}")) }
    })
    .await;
    assert_eq!(stack.converges("e2e_frozen", "SELECT id::text FROM item").await?, 4990);
    // Unless its time was over meanwhile, and it was ended.
    let _ = signal(process, "CONT");
    stack.execute("UPDATE item SET name = 'after it woke' WHERE id = 11").await?;
    assert_eq!(stack.converges("e2e_frozen", "SELECT id::text FROM item").await?, 4990);
    Ok(())
}

/// The process that owns this local end of a connection.
fn process_of_port(port: u16) -> Result<u32> {
    let table = fs::read_to_string("/proc/net/tcp")?;
    let local = format!("0100007F:{port:04X}");
    let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(local.as_str()));
    let inode = line.and_then(|line| line.split_whitespace().nth(9)).context("no such connection")?;
    let socket = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            if fs::read_link(descriptor.path()).is_ok_and(|link| link.to_string_lossy() == socket) {
                return Ok(pid);
            }
        }
    }
    bail!("no process has {socket}")
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { bail!("kill -{name} {pid}: {status}") }
}
