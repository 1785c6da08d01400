//! All routes, each with its access; and the document that describes them.

use std::sync::{Arc, LazyLock};

use axum::Router;
use bytes::Bytes;
use utoipa::OpenApi;
use utoipa_axum::routes;

use super::router::{Access, ApiRouter, On};
use super::{App, brokers, cluster, node, once, publish, raw, read, records, topics};
use crate::auth::Operation;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Pilgrimage",
        // Of the interface, as in its paths: releases of the program do not change the document.
        version = "1",
        description = "A partitioned, durable message log. Errors are problem documents (RFC 9457); \
                       their codes are listed at /docs/problems.",
        license(name = "MIT", identifier = "MIT")
    ),
    tags(
        (name = "Topics", description = "Topics and their partitions"),
        (name = "Records", description = "Records in, records out"),
        (name = "Cluster", description = "The nodes together: who leads what, and what is moved"),
        (name = "Node", description = "The node, its health and its load"),
        (name = "Console routes", description = "The first release's routes, kept as they were"),
    )
)]
struct Document;

const fn on(operation: Operation, resource: On) -> Access {
    Access {
        operation,
        resource,
    }
}

fn routes() -> ApiRouter {
    use Operation::{Admin, Alter, Create, Delete, Describe, Read, Write};
    ApiRouter::new(Document::openapi())
        .on_list(on(Describe, On::Node), routes!(topics::list_topics))
        .on(on(Create, On::Topic), routes!(topics::put_topic))
        .on(on(Describe, On::Topic), routes!(topics::get_topic))
        .on(on(Alter, On::Topic), routes!(topics::patch_topic))
        .on(on(Delete, On::Topic), routes!(topics::delete_topic))
        .on_list(on(Describe, On::Topic), routes!(topics::list_partitions))
        .on(on(Write, On::Topic), routes!(publish::publish))
        .on(on(Write, On::Topic), routes!(records::produce))
        .on(on(Write, On::Node), routes!(once::new_producer))
        .on_list(on(Read, On::Topic), routes!(read::read_topic))
        .on_list(on(Read, On::Topic), routes!(read::read_partition))
        .on(on(Alter, On::Topic), routes!(topics::trim_partition))
        .on(on(Read, On::Topic), routes!(raw::get_record))
        .on_list(on(Describe, On::Node), routes!(cluster::get_cluster))
        .on_list(on(Describe, On::Node), routes!(cluster::list_nodes))
        .on(on(Describe, On::Node), routes!(cluster::describe_node))
        .on_list(
            on(Describe, On::Node),
            routes!(cluster::list_held_partitions),
        )
        .on(on(Admin, On::Node), routes!(cluster::drain_node))
        .on(on(Admin, On::Node), routes!(cluster::undrain_node))
        .on(on(Admin, On::Node), routes!(cluster::replace_node))
        .on(on(Admin, On::Node), routes!(cluster::remove_node))
        .on(on(Admin, On::Topic), routes!(cluster::reassign))
        .on(on(Admin, On::Topic), routes!(cluster::cancel_reassign))
        .on(on(Admin, On::Topic), routes!(cluster::elect))
        .on(on(Describe, On::Node), routes!(node::get_node))
        .on(on(Describe, On::Node), routes!(node::metrics))
        .on(on(Read, On::Public), routes!(node::healthz))
        .on(on(Read, On::Public), routes!(node::readyz))
        .on_list(on(Read, On::Public), routes!(node::openapi_document))
        .on(on(Admin, On::Node), routes!(brokers::start))
        .on(on(Admin, On::Node), routes!(brokers::stop))
        .on(on(Write, On::Node), routes!(brokers::send))
        .on(on(Read, On::Node), routes!(brokers::consume))
        .on(on(Describe, On::Node), routes!(brokers::status))
}

/// The whole router.
pub(crate) fn router(app: Arc<App>) -> Router {
    routes().finish().0.with_state(app)
}

/// The OpenAPI document of the HTTP interface.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().finish().1
}

static JSON: LazyLock<Bytes> = LazyLock::new(|| match document().to_pretty_json() {
    Ok(json) => Bytes::from(json + "\n"),
    // The document is made of texts: writing it has no way to fail.
    Err(_) => Bytes::new(),
});

/// The document as it is served.
pub(super) fn json() -> Bytes {
    JSON.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_the_one_that_is_served() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, json()).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        assert!(
            committed == json(),
            "openapi/openapi.json differs from the code; write it anew with: UPDATE=1 cargo test openapi"
        );
    }

    #[test]
    fn every_operation_of_the_document_has_an_id_a_tag_and_an_answer() {
        for (path, item) in document().paths.paths {
            for operation in [item.get, item.put, item.post, item.patch, item.delete]
                .into_iter()
                .flatten()
            {
                assert!(operation.operation_id.is_some(), "{path}");
                assert!(operation.tags.is_some_and(|tags| tags.len() == 1), "{path}");
                assert!(!operation.responses.responses.is_empty(), "{path}");
            }
        }
    }
}
