//! What an answer should look like: hex digits, `??` for any byte, `...` for any number of them.

/// Whether an answer, data and status word, looks like the pattern. `None` when the pattern is none.
pub(crate) fn matches(pattern: &str, answer: &[u8]) -> Option<bool> {
    let pattern: String = pattern.split_whitespace().collect();
    let parts: Vec<_> = pattern.split("...").collect();
    match parts[..] {
        [whole] => fits(whole, answer),
        [head, tail] if answer.len() >= (head.len() + tail.len()) / 2 => {
            let (start, rest) = answer.split_at(head.len() / 2);
            let (_, end) = rest.split_at(rest.len() - tail.len() / 2);
            Some(fits(head, start)? && fits(tail, end)?)
        }
        [head, tail] => fits(head, &[]).and(fits(tail, &[])).map(|_| false),
        _ => None,
    }
}

fn fits(pattern: &str, answer: &[u8]) -> Option<bool> {
    if !pattern.is_ascii() || !pattern.len().is_multiple_of(2) {
        return None;
    }
    let mut same = pattern.len() == 2 * answer.len();
    for (at, digits) in pattern.as_bytes().chunks(2).enumerate() {
        if digits == b"??" {
            continue;
        }
        let byte = hex::decode(digits).ok()?;
        same &= answer.get(at..=at) == Some(&byte);
    }
    Some(same)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, answer, expected) in [
            ("9000", &[0x90, 0x00][..], Some(true)),
            ("01 ?? 9000", &[1, 2, 0x90, 0], Some(true)),
            ("...9000", &[1, 2, 0x90, 0], Some(true)),
            ("01...9000", &[0x90, 0], Some(false)),
            ("6F...00", &[0x6F, 1, 2], Some(false)),
            ("9000", &[0x90], Some(false)),
            ("900", &[0x90, 0], None),
            ("zz", &[0x90], None),
            ("...", &[], Some(true)),
            ("1...2...3", &[], None),
        ] {
            assert_eq!(matches(pattern, answer), expected, "{pattern}");
        }
    }
}
