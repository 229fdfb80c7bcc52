//! Range requests on bytes in memory (RFC 9110, sections 13 and 14).

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_range_header::{EndPosition, RangeUnsatisfiableError, StartPosition, SyntacticallyCorrectRange};

/// A tag of If-None-Match, which compares weakly (13.1.2).
fn weak(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// A range that ends before it begins is none (14.1.1).
const fn is_none(range: &SyntacticallyCorrectRange) -> bool {
    matches!((range.start, range.end), (StartPosition::Index(start), EndPosition::Index(end)) if end < start)
}

/// The whole, one range of it, 304 or 416. Several ranges at once are answered with the whole, which is always allowed.
pub(crate) fn respond(headers: &HeaderMap, etag: &str, content: &Bytes) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH)
        .is_some_and(|tags| tags == "*" || tags.split(',').any(|tag| weak(tag) == etag))
    {
        return answer(StatusCode::NOT_MODIFIED, etag, Bytes::new(), None);
    }
    // A range of something else than the device has begun to read would make a mixture: then it gets the whole.
    let is_same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let Some(range) = text(header::RANGE).filter(|_| is_same) else {
        return answer(StatusCode::OK, etag, content.clone(), None);
    };
    // Of several, whether they overlap or not, none is looked at.
    let total = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let parsed = match http_range_header::parse_range_header(range) {
        // The last none of its bytes: right, and not to be had (14.1.2).
        Err(RangeUnsatisfiableError::ZeroSuffix) => return unsatisfiable(etag, total),
        parsed => parsed.ok(),
    };
    let Some(parsed) = parsed.filter(|parsed| matches!(&parsed.ranges[..], [one] if !is_none(one))) else {
        return answer(StatusCode::OK, etag, content.clone(), None);
    };
    let valid = match parsed.validate(total) {
        // More than there is, counted from the end: all there is (14.1.2).
        Err(RangeUnsatisfiableError::FileSuffixOutOfBounds) if total > 0 => Ok(vec![0..=total - 1]),
        valid => valid,
    };
    match valid.as_deref() {
        Ok([range]) => {
            let (start, end) = (usize::try_from(*range.start()), usize::try_from(*range.end()));
            let part = start.ok().zip(end.ok()).filter(|(_, end)| *end < content.len());
            part.map_or_else(
                || answer(StatusCode::OK, etag, content.clone(), None),
                |(start, end)| {
                    let extent = format!("bytes {start}-{end}/{total}");
                    answer(
                        StatusCode::PARTIAL_CONTENT,
                        etag,
                        content.slice(start..=end),
                        Some(extent),
                    )
                },
            )
        }
        Ok(_) => answer(StatusCode::OK, etag, content.clone(), None),
        Err(_) => unsatisfiable(etag, total),
    }
}

fn unsatisfiable(etag: &str, total: u64) -> Response {
    let extent = format!("bytes */{total}");
    answer(
        StatusCode::RANGE_NOT_SATISFIABLE,
        etag,
        Bytes::new(),
        Some(extent),
    )
}

fn answer(status: StatusCode, etag: &str, content: Bytes, extent: Option<String>) -> Response {
    let mut builder = Response::builder()
        .status(status)
        .header(header::ETAG, etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "public, max-age=31536000, immutable")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, content.len());
    if let Some(extent) = extent {
        builder = builder.header(header::CONTENT_RANGE, extent);
    }
    builder
        .body(Body::from(content))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pairs: &[(header::HeaderName, &str)]) -> (u16, String, u64) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(name, value.parse().unwrap());
        }
        let response = respond(&headers, "\"tag\"", &Bytes::from_static(b"0123456789"));
        let text = |name| {
            response
                .headers()
                .get(name)
                .map(|v| v.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        (
            response.status().as_u16(),
            text(header::CONTENT_RANGE),
            text(header::CONTENT_LENGTH).parse().unwrap(),
        )
    }

    #[test]
    fn ranges_are_answered_as_the_rfc_says() {
        assert_eq!(ask(&[]), (200, String::new(), 10));
        assert_eq!(
            ask(&[(header::RANGE, "bytes=3-")]),
            (206, "bytes 3-9/10".into(), 7)
        );
        assert_eq!(ask(&[(header::RANGE, "bytes=5-2")]), (200, String::new(), 10));
        assert_eq!(ask(&[(header::RANGE, "bytes=-0")]), (416, "bytes */10".into(), 0));
        for (tags, status) in [("W/\"tag\"", 304), ("\"x\", W/\"tag\"", 304), ("W/\"x\"", 200)] {
            assert_eq!(ask(&[(header::IF_NONE_MATCH, tags)]).0, status, "{tags}");
        }
        assert_eq!(
            ask(&[(header::RANGE, "bytes=-2")]),
            (206, "bytes 8-9/10".into(), 2)
        );
        assert_eq!(
            ask(&[(header::RANGE, "bytes=2-4")]),
            (206, "bytes 2-4/10".into(), 3)
        );
        assert_eq!(
            ask(&[(header::RANGE, "bytes=10-")]),
            (416, "bytes */10".into(), 0)
        );
        for several in [
            "0-1,4-5", "0-,1-", "0-3,2-5", "0-1,1-2", "0-1,0-1", "8-,99-", "5-2,0-1",
        ] {
            let range = format!("bytes={several}");
            assert_eq!(
                ask(&[(header::RANGE, &range)]),
                (200, String::new(), 10),
                "{several}"
            );
        }
        assert_eq!(
            ask(&[(header::RANGE, "bytes=-11")]),
            (206, "bytes 0-9/10".into(), 10)
        );
        assert_eq!(ask(&[(header::RANGE, "lines=1-2")]), (200, String::new(), 10));
        assert_eq!(
            ask(&[(header::RANGE, "bytes=3-"), (header::IF_RANGE, "\"tag\"")]).0,
            206
        );
        assert_eq!(
            ask(&[(header::RANGE, "bytes=3-"), (header::IF_RANGE, "\"old\"")]),
            (200, String::new(), 10)
        );
        assert_eq!(ask(&[(header::IF_NONE_MATCH, "\"tag\"")]).0, 304);
    }
}
