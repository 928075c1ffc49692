//! The page is built by `npm run build`, before this. Where only the code is checked, an empty folder does.

use std::{fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=dashboard/dist");
    fs::create_dir_all("dashboard/dist")
}
