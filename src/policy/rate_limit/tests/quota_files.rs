//! Claims about quota files.

use super::*;

fn name(client: &str) -> String {
    digest(&[client.as_bytes()]).hex()
}

fn refused(text: &str) -> QuotaFileError {
    let error = QuotaFile::parse(text).unwrap_err();
    assert!(!error.to_string().contains("sk-live"), "the error repeats what stands in the file: {error}");
    error
}

#[test]
fn a_file_gives_named_keys_rates_of_their_own_in_yaml_and_in_json() {
    let (alice, bob) = (name("alice"), name("bob"));
    let yaml =
        format!("quotas:\n  {alice}: {{requests: 60, per: 1m, burst: 5}}\n  {bob}: {{requests: 9, per: 1h30m}}\n");
    let json = format!(
        r#"{{"quotas": {{"{alice}": {{"requests": 60, "per": "1m", "burst": 5}}, "{bob}": {{"requests": 9, "per": "1h30m"}}}}}}"#
    );
    for text in [yaml, json] {
        let file = QuotaFile::parse(&text).unwrap();
        let rate = |client: &str| file.lookup(&digest(&[client.as_bytes()])).copied();
        assert_eq!(rate("alice"), Some(Rate::new(60, Duration::from_secs(60), 5).unwrap()));
        assert_eq!(
            rate("bob"),
            Some(Rate::new(9, Duration::from_secs(5_400), 9).unwrap()),
            "burst is that of requests"
        );
        assert_eq!((rate("carol"), file.len()), (None, 2));
        assert_eq!(file.lookup_id(digest(&[b"alice"]).id()).copied(), rate("alice"));
    }
}

#[test]
fn what_is_written_is_read_back_and_is_the_same_whatever_the_order() {
    let rates =
        [("alice", 60, 60_000, 5), ("bob", 1, 1, 1), ("carol", 1_000, 2_678_400_000, 7), ("dave", 9, 90_061_001, 9)];
    let entries: Vec<(KeyDigest, Rate)> = rates
        .iter()
        .map(|(client, requests, per_ms, burst)| {
            (digest(&[client.as_bytes()]), Rate::new(*requests, Duration::from_millis(*per_ms), *burst).unwrap())
        })
        .collect();
    let text = QuotaFile::render(entries.iter().map(|(digest, rate)| (digest, rate)));
    assert_eq!(text, QuotaFile::render(entries.iter().rev().map(|(digest, rate)| (digest, rate))));
    let file = QuotaFile::parse(&text).unwrap();
    assert_eq!(file.len(), 4);
    for (digest, rate) in &entries {
        assert_eq!(file.lookup(digest), Some(rate));
    }
    assert!(QuotaFile::parse(&QuotaFile::render([])).unwrap().is_empty());
}

#[test]
fn a_key_in_place_of_its_digest_is_refused_and_not_repeated() {
    let error = refused("quotas:\n  sk-live-0123456789: {requests: 60, per: 1m}\n");
    assert_eq!(error.reason(), "NotADigest");
    assert!(error.to_string().contains("entry 1") && error.to_string().contains("sha256sum"), "{error}");
    let sixty_four = format!("quotas:\n  sk-live-{}: {{requests: 60, per: 1m}}\n", "0".repeat(56));
    assert_eq!(refused(&sixty_four).reason(), "NotADigest");
}

#[test]
fn the_second_entry_of_one_key_is_refused() {
    let (lower, upper) = (name("alice"), name("alice").to_uppercase());
    for second in [&lower, &upper] {
        let error =
            refused(&format!("quotas:\n  {lower}: {{requests: 1, per: 1s}}\n  {second}: {{requests: 2, per: 1s}}\n"));
        assert_eq!(error, QuotaFileError::Duplicate { entry: 2, first: 1 });
    }
}

#[test]
fn what_is_no_quota_file_is_refused_with_its_line_and_without_its_words() {
    for text in [
        "",
        "sk-live-1",
        "quotas: sk-live-1",
        "quotas: {}\nsk-live-1: 2\n",
        "quotas:\n  a: [sk-live-1",
        "- sk-live-1",
        "\0",
    ] {
        assert_eq!(refused(text).reason(), "Malformed", "{text:?}");
    }
    let QuotaFileError::Malformed { line } = refused("quotas:\n\n  a: [sk-live-1") else { panic!() };
    assert!(line >= 3, "line {line}");
}

#[test]
fn an_entry_that_is_wrong_is_named_with_what_to_do() {
    let cases = [
        ("sk-live-1", "it is not like"),
        ("{requests: 1, per: 1s, sk-live-1: 1}", "it is not like"),
        ("{per: 1s}", "requests is not a whole number"),
        ("{requests: -1, per: 1s}", "requests is not a whole number"),
        ("{requests: 4294967296, per: 1s}", "requests is not a whole number"),
        ("{requests: 1}", "per is not a duration"),
        ("{requests: 1, per: 5}", "per is not a duration"),
        ("{requests: 1, per: sk-live-1}", "per is not a duration"),
        ("{requests: 1, per: 1y}", "per is not a duration"),
        ("{requests: 1, per: -1s}", "per is not a duration"),
        ("{requests: 1, per: 123456s}", "per is not a duration"),
        ("{requests: 1, per: 1s1s1s1s1s}", "per is not a duration"),
        ("{requests: 1, per: 1s, burst: sk-live-1}", "burst is not a whole number"),
        ("{requests: 0, per: 1s}", "requests is 0; set it to 1 to 1000000"),
        ("{requests: 1, per: 0s}", "per is 0; set it to 1 to"),
        ("{requests: 1, per: 99999h}", "per is 359996400000; set it to 1 to"),
        ("{requests: 1, per: 1s, burst: 0}", "burst is 0; set it to 1 to 1000000"),
        ("{requests: 1, per: 24h, burst: 1000}", "which takes 1000 days to fill"),
        ("{requests: 1000000, per: 1ms}", "more than 1000 a millisecond"),
    ];
    for (entry, problem) in cases {
        let good = format!("  {}: {{requests: 1, per: 1s}}\n", name("good"));
        let error = refused(&format!("quotas:\n{good}  {}: {entry}\n", name("bad"))).to_string();
        assert!(error.starts_with("entry 2: ") && error.contains(problem), "{entry}: {error}");
    }
}

#[test]
fn a_file_over_its_bounds_is_refused_before_it_costs_anything() {
    let long = format!("quotas: {{}}\n# {}", "x".repeat(MAX_QUOTA_FILE_BYTES));
    assert_eq!(refused(&long).reason(), "TooLong");
    let entries = |count: usize| {
        (0..count).map(|entry| format!("{entry:08x}{entry:056x}: {{requests: 1, per: 1s}}, ")).collect::<String>()
    };
    let text = format!("quotas: {{{}}}", entries(MAX_QUOTAS + 1));
    assert_eq!(refused(&text), QuotaFileError::TooMany);
    let text = format!("quotas: {{{}}}", entries(MAX_QUOTAS));
    assert_eq!(QuotaFile::parse(&text).unwrap().len(), MAX_QUOTAS);
}

#[test]
fn aliases_that_would_grow_without_end_are_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 9].join(", ")));
    }
    text.push_str("quotas: {x: *a11}\n");
    assert_eq!(refused(&text).reason(), "Malformed");
    assert_eq!(refused(&format!("quotas: {}1{}", "[".repeat(10_000), "]".repeat(10_000))).reason(), "Malformed");
}
