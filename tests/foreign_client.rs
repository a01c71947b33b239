//! Google's Python client against the emulator, which must behave like the service.
//!
//! A program of its own, because it needs a Python with that client: `scripts/test` provides it and counts this
//! program.

use std::process::Command;

use dataflux_emulator::Emulator;

#[test]
#[ignore = "needs google-cloud-storage for Python: run scripts/test"]
fn the_official_python_client_works_unchanged() {
    let python = std::env::var("DATAFLUX_PYTHON")
        .expect("DATAFLUX_PYTHON names a Python with google-cloud-storage: eval \"$(scripts/foreign)\"");
    let emulator = Emulator::builder().start().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/official_client.py");
    let output = Command::new(python).arg(script).arg(emulator.endpoint()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{err}");
    assert!(out.lines().any(|line| line.starts_with("Ran ") && !line.starts_with("Ran 0 ")), "{out}");
}
