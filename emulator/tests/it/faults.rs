use dataflux_emulator::{Call, Emulator, Fault, Faults, Profile};
use serde_json::json;

use crate::http::{get, post, send, try_send};

fn emulator() -> Emulator {
    let emulator = Emulator::builder().bucket("bucket").seed(3).start().unwrap();
    emulator.put("bucket", "x", vec![7; 100_000]);
    emulator
}

const MEDIA: &str = "/storage/v1/b/bucket/o/x?alt=media";

fn compose(emulator: &Emulator) -> Result<u16, ureq::Error> {
    let body = json!({ "sourceObjects": [{ "name": "x" }] }).to_string();
    let target = "/storage/v1/b/bucket/o/out/compose?ifGenerationMatch=0";
    Ok(try_send(emulator, "POST", target, &[], body.as_bytes())?.status)
}

#[test]
fn faults_can_be_error_answers() {
    let emulator = emulator();
    emulator.set_faults("retry_after=2".parse().unwrap());
    emulator.fault_next(Call::GetMedia, Fault::Error, 1);
    emulator.fault_next(Call::GetMedia, Fault::TooManyRequests, 1);
    emulator.fault_next(Call::GetMedia, Fault::Status(408), 1);
    let unavailable = get(&emulator, MEDIA);
    assert_eq!(unavailable.refusal(), (503, "backendError".to_owned()));
    assert_eq!(unavailable.header("retry-after"), Some("2"));
    assert_eq!(get(&emulator, MEDIA).refusal(), (429, "rateLimitExceeded".to_owned()));
    assert_eq!(get(&emulator, MEDIA).status, 408);
    assert_eq!(get(&emulator, MEDIA).status, 200);
    let stats = emulator.stats();
    assert_eq!((stats.errors["503"], stats.errors["429"], stats.faults["error"], stats.get_media), (1, 1, 1, 4));
}

#[test]
fn faults_can_damage_bodies() {
    let emulator = emulator();
    emulator.fault_next(Call::GetMedia, Fault::Cut, 1);
    let cut = get(&emulator, MEDIA);
    assert_eq!((cut.status, cut.header("content-length")), (200, Some("100000")));
    assert!(cut.broken.is_some() && cut.body.len() < 100_000);
    emulator.fault_next(Call::GetMedia, Fault::Short, 1);
    let short = get(&emulator, MEDIA);
    assert_eq!((short.status, short.header("content-length")), (200, None));
    assert!(short.broken.is_none() && short.body.len() < 100_000, "the end looks regular");
    emulator.fault_next(Call::GetMedia, Fault::Flip, 1);
    let flipped = get(&emulator, MEDIA);
    let wrong: Vec<u8> = flipped.body.iter().copied().filter(|byte| *byte != 7).collect();
    assert_eq!((flipped.body.len(), wrong.len(), (wrong[0] ^ 7).count_ones()), (100_000, 1, 1));
    let right = get(&emulator, MEDIA);
    assert_eq!(right.header("x-goog-hash"), flipped.header("x-goog-hash"));
    assert_eq!((right.body, right.broken.is_none()), (vec![7; 100_000], true));
    emulator.fault_next(Call::List, Fault::Cut, 1);
    assert!(get(&emulator, "/storage/v1/b/bucket/o").broken.is_some());
}

#[test]
fn stalls_end() {
    let emulator = emulator();
    emulator.set_faults("stall_ms=20".parse().unwrap());
    emulator.fault_next(Call::GetMedia, Fault::Stall, 1);
    emulator.fault_next(Call::List, Fault::Stall, 1);
    assert_eq!(get(&emulator, MEDIA).body, vec![7; 100_000]);
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o").status, 200);
    assert_eq!(emulator.stats().faults["stall"], 2);
}

#[test]
fn calls_with_lost_answers_take_effect_and_reset_calls_do_not() {
    let emulator = emulator();
    emulator.fault_next(Call::Compose, Fault::Reset, 1);
    emulator.fault_next(Call::Compose, Fault::LostResponse, 1);
    assert!(compose(&emulator).is_err());
    assert_eq!(emulator.names("bucket"), ["x"]);
    assert!(compose(&emulator).is_err());
    assert_eq!(emulator.names("bucket"), ["out", "x"]);
    assert_eq!(compose(&emulator).unwrap(), 412, "the retry finds the result of the first try");
}

#[test]
fn the_same_seed_fails_the_same_calls() {
    let run = |seed: u64| {
        let faults: Faults = "error=0.3,only=list".parse().unwrap();
        let emulator = Emulator::builder().bucket("bucket").faults(faults).seed(seed).start().unwrap();
        let statuses: Vec<u16> = (0..40).map(|_| get(&emulator, "/storage/v1/b/bucket/o").status).collect();
        assert!((0..20).all(|_| get(&emulator, "/storage/v1/b/bucket").status == 200), "only listings fail");
        statuses
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!(run(1).contains(&503));
}

#[test]
fn calls_over_a_limit_get_429() {
    let emulator = emulator();
    // The rate is so low that one call uses it up for longer than any test runs.
    emulator.set_profile("fast,reads_per_s=0.001,writes_per_s=0.001".parse::<Profile>().unwrap());
    assert_eq!(get(&emulator, MEDIA).status, 200);
    assert_eq!(get(&emulator, MEDIA).refusal(), (429, "rateLimitExceeded".to_owned()));
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o").status, 429);
    assert_eq!(compose(&emulator).unwrap(), 200);
    assert_eq!(compose(&emulator).unwrap(), 429);
    emulator.set_profile("fast,name_writes_per_s=0.001".parse::<Profile>().unwrap());
    let upload = |name: &str| {
        send(&emulator, "POST", &format!("/upload/storage/v1/b/bucket/o?uploadType=media&name={name}"), &[], b"").status
    };
    assert_eq!((upload("n"), upload("n"), upload("m")), (200, 429, 200));
    let again = post(&emulator, "/storage/v1/b/bucket/o/n/compose", &json!({ "sourceObjects": [{ "name": "x" }] }));
    assert_eq!(again.refusal(), (429, "rateLimitExceeded".to_owned()));
    emulator.set_profile(Profile::fast());
    assert_eq!(upload("n"), 200);
}

#[test]
fn paced_bodies_arrive_whole() {
    let emulator = emulator();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 3) as u8).collect();
    emulator.put("bucket", "big", bytes.clone());
    emulator.set_profile("fast,media_mb_s=50,list_ms=1,compose_ms=1,media_ms=1".parse::<Profile>().unwrap());
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/big?alt=media").body, bytes);
    emulator.fault_next(Call::GetMedia, Fault::Cut, 1);
    assert!(get(&emulator, "/storage/v1/b/bucket/o/big?alt=media").broken.is_some());
    assert_eq!(compose(&emulator).unwrap(), 200);
}

#[test]
fn a_change_takes_effect_after_its_client_has_left() {
    use std::io::Write;
    let emulator = emulator();
    emulator.set_profile("fast,compose_ms=300".parse::<Profile>().unwrap());
    let body = json!({ "sourceObjects": [{ "name": "x" }] }).to_string();
    let mut stream = std::net::TcpStream::connect(&emulator.endpoint()["http://".len()..]).unwrap();
    let head = "POST /storage/v1/b/bucket/o/out/compose HTTP/1.1\r\nHost: x\r\nContent-Length";
    write!(stream, "{head}: {}\r\n\r\n{body}", body.len()).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let wait_until = |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(std::time::Instant::now() < deadline, "the condition did not become true");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    wait_until(&|| emulator.stats().compose == 1);
    drop(stream);
    wait_until(&|| emulator.stats().in_flight == 0);
    wait_until(&|| emulator.names("bucket") == ["out", "x"]);
}
