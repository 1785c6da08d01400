//! The only way to add a route: with the access that it needs.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::{Extensions, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::Route;
use metrics::{Counter, Histogram};
use tower::{Layer, Service};
use tower_http::compression::{CompressionLayer, Predicate};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::App;
use super::error::ApiError;
use super::extract::path_param;
use super::face::Peer;
use crate::auth::{self, Operation, Resource};
use crate::telemetry;
use crate::types::{Code, TopicName};

/// What a route does, and to what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub(super) operation: Operation,
    pub(super) resource: On,
}

/// Where a route's resource is named.
#[derive(Debug, Clone, Copy)]
pub(super) enum On {
    /// By `{topic}` in the path.
    Topic,
    /// It is the node as a whole.
    Node,
    /// It is open to everybody who reaches the node.
    Public,
}

/// Collects routes, each with its access, and the document that describes them.
pub(super) struct ApiRouter {
    routes: OpenApiRouter<Arc<App>>,
}

impl ApiRouter {
    pub(super) fn new(document: OpenApi) -> Self {
        Self {
            routes: OpenApiRouter::with_openapi(document),
        }
    }

    /// Adds one handler, as collected by `routes!(handler)`.
    pub(super) fn on(mut self, access: Access, route: UtoipaMethodRouter<Arc<App>>) -> Self {
        let (schemas, paths, handler) = route;
        let path = paths.paths.keys().next().cloned().unwrap_or_default();
        let gate = Gate(Arc::new(GateInner {
            access,
            meter: Meter::new(path),
        }));
        self.routes = self.routes.routes((schemas, paths, handler.layer(gate)));
        self
    }

    /// The same for a handler that answers with lists as JSON: they are compressed for those who
    /// ask for it. Streams and binary answers are not.
    pub(super) fn on_list(self, access: Access, route: UtoipaMethodRouter<Arc<App>>) -> Self {
        let (schemas, paths, handler) = route;
        let compress = CompressionLayer::new().compress_when(IsLargeJson);
        self.on(access, (schemas, paths, handler.layer(compress)))
    }

    /// The router and its document. What no route takes goes to `fallback`.
    pub(super) fn finish(self) -> (Router<Arc<App>>, OpenApi) {
        let (router, document) = self.routes.split_for_parts();
        let router = router
            .method_not_allowed_fallback(method_not_allowed)
            .fallback(super::assets::fallback);
        (router, document)
    }
}

/// Whether an answer is worth compressing.
#[derive(Debug, Clone, Copy)]
struct IsLargeJson;

impl Predicate for IsLargeJson {
    fn should_compress<B: hyper::body::Body>(&self, response: &Response<B>) -> bool {
        let kind = response.headers().get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind == "application/json")
            && response
                .body()
                .size_hint()
                .exact()
                .is_none_or(|bytes| 1024 < bytes)
    }
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        "the route does not take this method; the Allow header lists those it takes",
    )
}

#[derive(Clone)]
struct Gate(Arc<GateInner>);

struct GateInner {
    access: Access,
    meter: Meter,
}

impl Layer<Route> for Gate {
    type Service = Gated;
    fn layer(&self, route: Route) -> Gated {
        Gated {
            gate: self.0.clone(),
            route,
        }
    }
}

#[derive(Clone)]
struct Gated {
    gate: Arc<GateInner>,
    route: Route,
}

impl Service<Request<Body>> for Gated {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.route, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (gate, mut route) = (self.gate.clone(), self.route.clone());
        Box::pin(async move {
            let began = Instant::now();
            let method = request.method().clone();
            let response = match gate.admit(request).await {
                Ok(request) => route.call(request).await?,
                Err(error) => error.into_response(),
            };
            gate.meter.count(method.as_str(), response.status(), began);
            Ok(response)
        })
    }
}

impl GateInner {
    /// Lets the request through if its sender may do what the route does. The name that was judged
    /// is handed to the handler, which looks at no other.
    async fn admit(&self, request: Request<Body>) -> Result<Request<Body>, ApiError> {
        let (mut parts, body) = request.into_parts();
        let resource = match self.access.resource {
            On::Public => Resource::Public,
            On::Node => Resource::Cluster,
            On::Topic => {
                let name = path_param(&mut parts, "topic").await?.unwrap_or_default();
                let name = TopicName::try_from(name)?;
                parts.extensions.insert(name.clone());
                Resource::Topic(name)
            }
        };
        let peer = known_peer(&parts.extensions)?;
        may(peer, self.access.operation, &resource)?;
        Ok(Request::from_parts(parts, body))
    }
}

/// Who asks. That every request has a sender is this program's own doing.
pub(super) fn known_peer(extensions: &Extensions) -> Result<&Arc<Peer>, ApiError> {
    extensions
        .get::<Arc<Peer>>()
        .ok_or_else(|| ApiError::new(Code::Internal, "the sender is unknown"))
}

/// Whether the sender may do this, for what only the body names.
pub(super) fn may(peer: &Peer, operation: Operation, resource: &Resource) -> Result<(), ApiError> {
    auth::decide(&peer.principal, operation, resource, &peer.policy)
        .into_result()
        .map_err(|denied| ApiError::new(denied.code(), denied.to_string()))
}

/// Statuses whose counters are kept at hand.
const COMMON: [u16; 6] = [200, 201, 202, 204, 404, 429];

/// Counts the answers of one route.
struct Meter {
    route: String,
    /// By index of [`COMMON`]; made at the first answer of that status.
    common: [OnceLock<Counter>; COMMON.len()],
    seconds: OnceLock<Histogram>,
}

impl Meter {
    fn new(route: String) -> Self {
        Self {
            route,
            common: Default::default(),
            seconds: OnceLock::new(),
        }
    }

    fn count(&self, method: &str, status: StatusCode, began: Instant) {
        let counter = || {
            metrics::counter!(
                telemetry::REQUESTS,
                "route" => self.route.clone(),
                "method" => method.to_owned(),
                "status" => status.as_str().to_owned()
            )
        };
        match COMMON.iter().position(|common| *common == status.as_u16()) {
            Some(index) => self.common[index].get_or_init(counter).increment(1),
            None => counter().increment(1),
        }
        let seconds = self.seconds.get_or_init(|| {
            metrics::histogram!(
                telemetry::REQUEST_SECONDS,
                "route" => self.route.clone(),
                "method" => method.to_owned()
            )
        });
        seconds.record(began.elapsed().as_secs_f64());
    }
}
