//! Faults on the real stack: servers are stopped, frozen and restarted, connections are cut, under a steady load. When
//! the fault is over, the index equals the source and there is no dead letter.
//!
//! They do this to servers that everybody shares, so one goes after the other, in a binary of their own, which cargo
//! runs alone. A fault lasts until it is felt. OUTAGE_SECONDS, FREEZE_SECONDS and KILL_CHANGES make it longer, as
//! `make soak` does; SEED repeats what is random.

#![allow(clippy::print_stderr, reason = "the long runs tell how far they are")]

#[path = "faults/chaos.rs"]
mod chaos;
#[path = "faults/functions.rs"]
mod functions;
#[path = "faults/generations.rs"]
mod generations;
#[path = "faults/load.rs"]
mod load;
#[path = "faults/pipeline.rs"]
mod pipeline;
#[path = "faults/queue.rs"]
mod queue;
#[path = "faults/rotation.rs"]
mod rotation;
#[path = "faults/security.rs"]
mod security;
#[path = "faults/servers.rs"]
mod servers;
#[allow(dead_code, reason = "shared with the other end-to-end tests, which use the rest of it")]
#[path = "main/stack.rs"]
mod stack;
#[path = "faults/validation.rs"]
mod validation;
