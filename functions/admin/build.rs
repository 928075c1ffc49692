//! The page is built by `npm run build`, before this. Where nobody did that, as when only the code is checked, a line
//! says so in its place.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=dashboard/dist");
    let dist = Path::new("dashboard/dist");
    if !dist.join("index.html").exists() {
        fs::create_dir_all(dist)?;
        fs::write(
            dist.join("index.html"),
            "<!doctype html><title>Sluice</title><p>The page was not built: npm run build",
        )?;
    }
    Ok(())
}
