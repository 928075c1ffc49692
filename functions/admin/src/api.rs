//! The endpoints that take a caller who is known, and what is written about them.
//!
//! The description that is served is a file. So the function neither makes it at each start, nor has the code that does: a
//! test makes it of the same list, and compares.

use axum::Router;
use axum::routing::{delete, get, post};

use crate::ingest::rejects;
use crate::letters::{dead_letters, tasks};
use crate::metrics::history;
use crate::pipeline::{checkpoints, generations, outbox, streams, subscriptions};
use crate::services::Admin;
use crate::validation::differences;
use crate::{access, audit, clients, data_sync, demo, health, ingest, metrics, validation};

/// In OpenAPI. The dashboard's build makes its types of it, too.
pub const DESCRIPTION: &str = include_str!("../dashboard/openapi.json");

macro_rules! endpoints {
    ($($method:ident $path:literal $($handler:ident)::+;)+) => {
        /// All of them.
        pub fn endpoints() -> Router<Admin> {
            Router::new()$(.route($path, $method($($handler)::+)))+
        }

        #[cfg(test)]
        const LISTED: &[(&str, &str)] = &[$((stringify!($method), $path)),+];

        #[cfg(test)]
        fn described(router: utoipa_axum::router::OpenApiRouter<Admin>) -> utoipa_axum::router::OpenApiRouter<Admin> {
            router$(.routes(utoipa_axum::routes!($($handler)::+)))+
        }
    };
}

endpoints! {
    get "/api/session" access::session;
    get "/api/outbox" outbox::list;
    get "/api/dlq" dead_letters::list;
    delete "/api/dlq/{id}" dead_letters::discard;
    post "/api/dlq/{id}/redrive" dead_letters::redrive;
    get "/api/retry/{id}" dead_letters::retry;
    post "/api/dlq/redrive" tasks::begin;
    get "/api/dlq/redrive/{task}" tasks::progress;
    post "/api/dlq/redrive/{task}" tasks::go_on_now;
    delete "/api/dlq/redrive/{task}" tasks::cancel;
    get "/api/subscriptions" subscriptions::list;
    post "/api/subscriptions/{name}/pause" subscriptions::pause;
    post "/api/subscriptions/{name}/resume" subscriptions::resume;
    post "/api/subscriptions/{name}/replay" checkpoints::replay;
    get "/api/checkpoints" checkpoints::list;
    post "/api/checkpoints" checkpoints::create;
    get "/api/streams" streams::list;
    get "/api/streams/{name}/generations" generations::list;
    post "/api/streams/{name}/{action}" generations::change;
    get "/api/validation" validation::list;
    post "/api/validation" validation::ask;
    get "/api/validation/{stream}" differences::list;
    get "/api/sync" clients::summary;
    get "/api/sync/buckets" clients::buckets;
    get "/api/sync/conflicts" clients::conflicts;
    get "/api/ingest" ingest::status;
    post "/api/ingest/run" ingest::run;
    get "/api/ingest/rejects" rejects::list;
    get "/api/history" history::list;
    get "/api/audit" audit::list;
    post "/api/add-user" demo::add_user;
    post "/api/update-user" demo::update_user;
    get "/metrics" metrics::metrics;
    get "/health" health::health;
    get "/ready" health::ready;
    get "/api/v1/data-sync/health" data_sync::health;
    get "/api/v1/data-sync/ready" data_sync::ready;
    get "/api/v1/data-sync/consistency" data_sync::consistency;
    get "/api/v1/data-sync/metrics" data_sync::metrics;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::OpenApi;
    use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
    use utoipa::openapi::{RefOr, Schema, SecurityRequirement};
    use utoipa_axum::router::OpenApiRouter;

    use super::*;

    #[derive(OpenApi)]
    #[openapi(info(
        title = "Sluice admin",
        description = "Dead letters, redrive, validation, ingest, health and metrics of a pipeline from PostgreSQL to Elasticsearch."
    ))]
    struct Api;

    /// What the handlers say about themselves.
    fn description() -> utoipa::openapi::OpenApi {
        let (_, mut api) = described(OpenApiRouter::with_openapi(Api::openapi())).split_for_parts();
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", bearer);
        components.schemas.values_mut().for_each(require_fields);
        api.security = Some(vec![SecurityRequirement::new::<_, _, String>("token", [])]);
        api
    }

    /// An answer has all its fields, null where there is nothing to tell; utoipa takes a field that may be null for one that
    /// may be missing. That is so in what a request says, which refuses fields that it does not know.
    fn require_fields(schema: &mut RefOr<Schema>) {
        if let RefOr::T(Schema::Object(object)) = schema
            && object.additional_properties.is_none()
        {
            object.required = object.properties.keys().cloned().collect();
        }
    }

    #[test]
    fn the_dashboard_is_built_for_the_answers_that_are_served() {
        let made = format!("{}\n", description().to_json().unwrap());
        if std::env::var_os("WRITE").is_some() {
            std::fs::write("dashboard/openapi.json", &made).unwrap();
        }
        assert!(
            made == DESCRIPTION,
            "dashboard/openapi.json is not what the handlers say; write it: WRITE=1 cargo test -p admin --lib the_dashboard"
        );
    }

    #[test]
    fn each_endpoint_is_where_it_says_that_it_is() {
        let described = serde_json::to_value(description().paths).unwrap();
        let said = |(path, methods): (&String, &serde_json::Value)| {
            let path = path.clone();
            let methods: Vec<String> = methods.as_object().unwrap().keys().cloned().collect();
            methods.into_iter().map(move |method| (method, path.clone()))
        };
        let said: BTreeSet<(String, String)> = described.as_object().unwrap().iter().flat_map(said).collect();
        let listed = LISTED.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
        assert_eq!(said, listed);
    }
}
