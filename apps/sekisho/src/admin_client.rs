//! A client of the server's administration API.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::time::Duration;

/// Longest answer read.
const ANSWER_MAX: u64 = 64 << 20;

/// A server, as its administrators reach it.
#[derive(Clone)]
pub(crate) struct AdminClient {
    http: ureq::Agent,
    root: String,
    token: String,
}

impl AdminClient {
    /// A client of the server at `root`, such as `http://127.0.0.1:8440`.
    pub(crate) fn new(root: &str, token: &str) -> Self {
        let http = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        Self {
            http,
            root: root.trim_end_matches('/').to_owned(),
            token: format!("Bearer {token}"),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let request = self.http.get(self.url(path)).header("Authorization", &self.token);
        self.answer(path, request.call())
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<Value> {
        let request = self
            .http
            .post(self.url(path))
            .header("Authorization", &self.token);
        self.answer(path, request.send(body))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value> {
        let request = self
            .http
            .delete(self.url(path))
            .header("Authorization", &self.token);
        self.answer(path, request.call())
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.root)
    }

    fn answer(
        &self,
        path: &str,
        result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value> {
        let mut response =
            result.map_err(|error| anyhow!("{}: {error}; is the server running there?", self.root))?;
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_MAX)
            .read_to_string()
            .context("reading the answer")?;
        let value: Value = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or(Value::Null)
        };
        if status.is_success() {
            return Ok(value);
        }
        let detail = value["detail"].as_str().unwrap_or("no explanation");
        bail!("{path}: the server answered {}: {detail}", status.as_u16())
    }
}
