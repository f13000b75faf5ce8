//! What the subcommands of the cleaner share: the settings of a log, of which nothing is stored with it, and sizes.

use alluvium::clock::{Clock as _, SystemClock};
use alluvium::inspect::{Limits, SurveyOptions};
use alluvium::{CleanupPolicy, LogConfig};

/// Settings of the log, by the keys that `config` lists.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// A setting of the log, such as `delete.retention.ms=60000`; may be given several times. Without any,
    /// `cleanup.policy` is `compact` and all else has its default.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Settings {
    /// As they were given.
    pub(crate) fn config(&self) -> Result<LogConfig, Box<dyn std::error::Error>> {
        let mut config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() };
        for setting in &self.set {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(format!("{setting:?} is no setting; write KEY=VALUE").into());
            };
            config = config.with(key.trim(), value)?;
        }
        Ok(config)
    }

    /// What a survey goes by.
    pub(crate) fn survey(&self) -> Result<SurveyOptions, Box<dyn std::error::Error>> {
        let config = self.config()?;
        let decompressed_bytes_max = config.max_decompressed_bytes;
        let limits = Limits { decompressed_bytes_max, ..Limits::default() };
        Ok(SurveyOptions { config, now: SystemClock::new().wall(), limits })
    }
}

/// Bytes, with K, M or G for as many times 1,024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['K', 'k', 'M', 'm', 'G', 'g']);
    let factor = match text.get(digits.len()..).unwrap_or_default() {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return Err("write a number of bytes, with K, M or G behind it or without".to_owned()),
    };
    let count: u64 = digits.parse().map_err(|_| "write a number of bytes, such as 4M".to_owned())?;
    count.checked_mul(factor).ok_or_else(|| "that is more than 64 bits of bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_a_unit_or_none() {
        assert_eq!((size("7"), size("4M"), size("1k"), size("2G")), (Ok(7), Ok(4 << 20), Ok(1024), Ok(2 << 30)));
        for wrong in ["", "M", "4MB", "4MM", "-1", "1.5M", "99999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
