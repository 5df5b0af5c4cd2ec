//! `fusebox quota`: a file of quotas from plain keys, which names each by its SHA-256.
//!
//! It works without a cluster, so that plain keys need never leave the machine that has them. Mistakes are named by their place and
//! never by the key.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fusebox_policy::rate_limit::{KeyDigest, MAX_QUOTAS, QuotaFile, Rate, digest};

use crate::arguments::QuotaArguments;
use crate::terminal::{Exit, Terminal};

/// The longest list of keys that is read, in bytes.
const MAX_INPUT: u64 = 16 << 20;

/// Prints the file.
pub(crate) fn quota(arguments: &QuotaArguments, terminal: &mut Terminal) -> Result<Exit> {
    let mut entries = Vec::new();
    for (index, entry) in arguments.entries.iter().enumerate() {
        entries.push(parse(entry).with_context(|| format!("argument {}", index + 1))?);
    }
    if let Some(path) = &arguments.from_file {
        for (index, line) in read(path)?.lines().enumerate() {
            if !line.trim().is_empty() && !line.starts_with('#') {
                entries.push(parse(line).with_context(|| format!("{}, line {}", path.display(), index + 1))?);
            }
        }
    }
    ensure!(!entries.is_empty(), "no keys: name them as KEY=RATE, or a file of such lines with --from-file");
    ensure!(entries.len() <= MAX_QUOTAS, "more than {MAX_QUOTAS} keys: make several policies");
    let file = QuotaFile::render(entries.iter().map(|(digest, rate)| (digest, rate)));
    // What is printed is what a sidecar would read.
    QuotaFile::parse(&file).context("two keys are the same, with different rates")?;
    write!(terminal.out, "{file}")?;
    terminal.out.flush()?;
    Ok(Exit::Done)
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_INPUT).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("{} can't be opened", path.display()))?;
        file.take(MAX_INPUT).read_to_string(&mut text)
    };
    read.with_context(|| format!("{} can't be read as text", path.display()))?;
    Ok(text)
}

/// Reads `KEY=REQUESTS/PER[:BURST]`; a key may hold `=` itself.
fn parse(entry: &str) -> Result<(KeyDigest, Rate)> {
    let Some((key, rate)) = entry.rsplit_once('=').filter(|(key, _)| !key.is_empty()) else {
        bail!("write KEY=RATE, such as alice=60/1m or alice=60/1m:10");
    };
    Ok((digest(&[key.as_bytes()]), parse_rate(rate.trim())?))
}

fn parse_rate(text: &str) -> Result<Rate> {
    let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
    let (requests, per) = rate.split_once('/').context("a rate is REQUESTS/PER[:BURST], such as 60/1m:10")?;
    let requests: u32 = requests.parse().context("the number of requests is not a whole number")?;
    let per: fusebox_api::Duration = per.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let per = Duration::from_millis(per.as_millis());
    let burst = burst.map_or(Ok(requests), |burst| burst.parse().context("the burst is not a whole number"))?;
    Ok(Rate::new(requests, per, burst)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_hold_an_equals_sign_and_is_never_in_an_error() {
        let (digested, rate) = parse("a=b=60/1m:10").unwrap();
        assert_eq!(digested, digest(&[b"a=b"]));
        assert_eq!((rate.requests(), rate.per(), rate.burst()), (60, Duration::from_secs(60), 10));
        assert_eq!(parse("alice=60/1m").unwrap().1.burst(), 60);
        for wrong in
            ["hunter2", "=60/1m", "hunter2=60", "hunter2=x/1m", "hunter2=60/1", "hunter2=60/1m:x", "hunter2=0/1m"]
        {
            let error = format!("{:#}", parse(wrong).unwrap_err());
            assert!(!error.contains("hunter2"), "{wrong}: {error}");
        }
    }
}
