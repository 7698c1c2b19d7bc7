//! Server-sent events (HTML, section 9.2).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::error::ApiError;

/// Events that wait for the client.
const WAITING: usize = 64;
/// How often a line is sent although nothing has come, so that proxies keep the connection.
const ALIVE: Duration = Duration::from_secs(15);
/// How long a client may leave events unread.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends events to a client.
pub struct Events(Sender<Bytes>);

/// The client is gone.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl Events {
    /// Sends an event.
    ///
    /// # Errors
    /// [`Gone`] if the client is, or does not read.
    pub async fn send(&self, event: &impl Serialize) -> Result<(), Gone> {
        let json = serde_json::to_string(event).map_err(|_| Gone)?;
        self.line(format!("data: {json}\n\n")).await
    }

    /// Ends the stream as clients expect it.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn done(&self) -> Result<(), Gone> {
        self.line("data: [DONE]\n\n".to_owned()).await
    }

    /// Ends the stream with an error.
    pub async fn fail(&self, error: &ApiError) {
        let _ = self.send(&error.body()).await;
    }

    /// Waits for `what`, and tells the client meanwhile that the connection is alive.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn alive<T>(&self, what: impl Future<Output = T>) -> Result<T, Gone> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                result = &mut what => return Ok(result),
                () = self.0.closed() => return Err(Gone),
                () = tokio::time::sleep(ALIVE) => self.line(": still here\n\n".to_owned()).await?,
            }
        }
    }

    async fn line(&self, line: String) -> Result<(), Gone> {
        match tokio::time::timeout(PATIENCE, self.0.send(line.into())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

struct Received(Receiver<Bytes>);

impl Stream for Received {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(Ok))
    }
}

/// Returns an answer whose events are sent by `send`, in a task of its own.
pub fn respond<F>(send: impl FnOnce(Events) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = channel(WAITING);
    tokio::spawn(send(Events(sender)));
    let mut response = Body::from_stream(Received(receiver)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise collect events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
