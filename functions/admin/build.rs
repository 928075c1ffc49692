//! The page is built by `npm run build`. A release has it inside, so there that comes first; the dev profile reads it when it is asked
//! for. Where only the code is checked, an empty folder does.

use std::{env, fs, io};

fn main() -> io::Result<()> {
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    println!("cargo:rerun-if-changed={}", if is_release { "dashboard/dist" } else { "build.rs" });
    fs::create_dir_all("dashboard/dist")
}
