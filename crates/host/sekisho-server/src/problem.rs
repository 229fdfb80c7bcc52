//! Errors as `application/problem+json` (RFC 9457): what is wrong, and what to do.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sekisho_store::StoreError;

/// An error answer.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    retry_after: Option<u32>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            title,
            detail: detail.into(),
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed request", detail)
    }

    /// What the specification lays out and this server does not do.
    pub(crate) fn not_built(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not built", detail)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "not authenticated",
            "send Authorization: Bearer with the right token",
        )
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "not allowed", detail)
    }

    pub(crate) fn not_yet(seconds: u32, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_EARLY, "not yet", detail)
        }
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Self::new(
                StatusCode::NOT_FOUND,
                "not found",
                format!("there is no such {what}"),
            ),
            StoreError::Conflict(why) => Self::conflict(why),
            StoreError::Target(..) => Self::bad_request(error.to_string()),
            StoreError::Device(..) => Self::conflict(error.to_string()),
            error => {
                tracing::error!(%error, "store");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "store unavailable",
                    match error {
                        StoreError::Files(_) => {
                            "nothing was changed; the server has too many open files (ulimit -n)"
                        }
                        StoreError::NotWritable(_) => {
                            "the database cannot be written; the server's standard error says why"
                        }
                        _ => "nothing was changed; try again",
                    },
                )
            }
        }
    }
}

impl From<sekisho_hsm::HsmError> for Problem {
    fn from(error: sekisho_hsm::HsmError) -> Self {
        tracing::error!(%error, "hsm");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "HSM unavailable",
            "nothing was changed; try again",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank", "title": self.title, "status": self.status.as_u16(), "detail": self.detail,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        // What they are about may have a body that nobody reads: the connection ends, and a client that is not told would send its next request on it.
        if [StatusCode::UNAUTHORIZED, StatusCode::PAYLOAD_TOO_LARGE].contains(&self.status) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
