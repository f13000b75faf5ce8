//! The indexes of a `.log`, worked out from its bytes alone and from the format's description, without the crate.

/// The bytes that `.index` and `.timeindex` are to have once their segment is sealed or closed.
pub(crate) fn expected(log: &[u8], base: i64, interval_bytes: u64) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (mut offsets, mut times) = (Vec::new(), Vec::new());
    let mut since_last_entry = 0;
    let mut largest = (-1, 0);
    let mut last_in_times = -1;
    let mut put_time = |largest: (i64, i64), times: &mut Vec<u8>| {
        if largest.0 > last_in_times {
            last_in_times = largest.0;
            times.extend(largest.0.to_be_bytes());
            times.extend(relative(largest.1, base));
        }
    };
    let mut at = 0;
    while at < log.len() {
        let is_whole = log.len() - at >= 61 && log[at + 16] == 2;
        if !is_whole {
            return Err(format!("no batch at {at} of {} bytes: {:?}", log.len(), &log[at..]));
        }
        let size = 12 + u32::from_be_bytes(log[at + 8..at + 12].try_into().unwrap()) as usize;
        let base_offset = i64::from_be_bytes(log[at..at + 8].try_into().unwrap());
        let last = base_offset + i64::from(i32::from_be_bytes(log[at + 23..at + 27].try_into().unwrap()));
        let timestamp = i64::from_be_bytes(log[at + 35..at + 43].try_into().unwrap());
        if timestamp > largest.0 {
            largest = (timestamp, last);
        }
        if since_last_entry > interval_bytes {
            offsets.extend(relative(last, base));
            offsets.extend(u32::try_from(at).unwrap().to_be_bytes());
            put_time(largest, &mut times);
            since_last_entry = 0;
        }
        since_last_entry += size as u64;
        at += size;
    }
    put_time(largest, &mut times);
    Ok((offsets, times))
}

fn relative(offset: i64, base: i64) -> [u8; 4] {
    u32::try_from(offset - base).unwrap().to_be_bytes()
}
