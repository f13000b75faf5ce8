//! Any text, taken for properties: what is accepted is valid, and its entries give the same settings again.

use alluvium::LogConfig;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = LogConfig::from_kafka_properties(text) else { return };
    let config = parsed.config;
    config.validate().expect("what is parsed is valid");
    let lines: Vec<String> = config.entries().map(|(key, value)| format!("{key}={value}")).collect();
    let text = lines.join("\n");
    let reparsed = LogConfig::from_kafka_properties(&text).expect("what is printed can be parsed");
    assert_eq!(reparsed.config, config);
}
