//! Accepts connections, within limits of their number and time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::admission::{Admission, admit};
use crate::api::{App, router};
use crate::options::ServeOptions;

/// The most bytes of a header.
const HEADER_BYTES: usize = 64 << 10;
/// How long to wait after the system refused a connection: it may have too many files open.
const REFUSED: Duration = Duration::from_millis(50);

/// A server that listens.
pub struct Listening {
    /// Its address.
    pub address: SocketAddr,
    listener: TcpListener,
    app: Arc<App>,
}

/// Listens at an address.
///
/// # Errors
/// Those of the system.
pub async fn listen(app: Arc<App>, address: SocketAddr) -> std::io::Result<Listening> {
    let listener = TcpListener::bind(address).await?;
    Ok(Listening { address: listener.local_addr()?, listener, app })
}

impl Listening {
    /// Answers requests until `end` is ready; then finishes those that are there, within the time of grace.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        let Listening { listener, app, .. } = self;
        let options = &app.options;
        let admission = Admission::new(&options.api_keys, &options.allow_origins, &options.allow_hosts);
        let layer = middleware::from_fn_with_state((app.clone(), Arc::new(admission)), admit);
        let router = router(app.clone()).layer(layer);
        let free = Arc::new(Semaphore::new(options.connections.max(1)));
        let (ending, ended) = watch::channel(false);
        let mut end = std::pin::pin!(end);
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                accepted = accept(&listener, &free) => accepted,
            };
            let (stream, peer, place) = accepted;
            let (app, router, ended) = (app.clone(), router.clone(), ended.clone());
            tokio::spawn(async move {
                connection(stream, peer, &app.options, router, ended).await;
                drop(place);
            });
        }
        drop(listener);
        app.engine.end();
        let _ = ending.send(true);
        drop(ended);
        // The sender is closed when the last connection has dropped its receiver.
        let _ = tokio::time::timeout(options.grace, ending.closed()).await;
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// Accepts the next connection when there is a place for one.
async fn accept(listener: &TcpListener, free: &Arc<Semaphore>) -> (TcpStream, SocketAddr, Place) {
    loop {
        let Ok(place) = free.clone().acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

/// Answers the requests of a connection.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    options: &ServeOptions,
    router: Router,
    mut ended: watch::Receiver<bool>,
) {
    // Events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(options.write_timeout));
    let stream = TokioIo::new(Box::pin(stream));
    let service = tower_service(router, peer);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(options.header_timeout).max_buf_size(HEADER_BYTES);
    let mut connection = std::pin::pin!(http.serve_connection(stream, service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|&is_over| is_over) => connection.as_mut().graceful_shutdown(),
    }
    // An error is the client's: it went, or sent what is not HTTP.
    let _ = connection.await;
}

/// The service of a connection: the routes, which learn who is there.
fn tower_service(
    router: Router,
    peer: SocketAddr,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> {
    let service = TowerToHyperService::new(router);
    hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        hyper::service::Service::call(&service, request)
    })
}
