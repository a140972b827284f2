//! POST of JSON over HTTP/1.1, without TLS.

use super::alert::Failed;
use axum::body::Body;
use axum::http::{Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use virtd_config::alert::Url;

/// Posts a document, over a connection of its own. Waits as long as it takes: the caller has a limit.
pub(super) async fn post(url: &Url, json: &str) -> Result<(), Failed> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(Failed::now)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failed::now)?;
    let request = Request::post(&url.path)
        .header(header::HOST, url.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "virtd-monitor")
        .header(header::CONNECTION, "close")
        .body(Body::from(json.to_owned()))
        .map_err(Failed::ever)?;
    // Who gives up ends it: a set of tasks ends them with itself.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let status = sender.send_request(request).await.map_err(Failed::now)?.status();
    match status.is_success() {
        true => Ok(()),
        // Too many requests, or the server's own trouble.
        false => {
            Err(Failed { text: format!("answers {status}"), again: status.as_u16() == 429 || status.is_server_error() })
        }
    }
}
