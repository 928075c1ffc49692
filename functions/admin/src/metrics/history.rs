//! The last hour of a subscription, as its drainer has sampled it.

use axum::Json;
use axum::extract::State;
use database::delivery::{self, CONFIGURATION, DEAD_LETTERED, GONE, RETRIED, STALE, WRITTEN};
use database::subscriptions::ELASTICSEARCH;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::extract::Params;
use crate::metrics::stats::Totals;
use crate::problem::Problem;
use crate::services::Admin;

/// How much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// 60 unless told, and at most.
    minutes: Option<i32>,
    /// Of this subscription; elasticsearch unless told.
    subscription: Option<String>,
}

/// A moment, and what was done since the one before.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sample {
    /// In UTC.
    at: String,
    /// Rows of the log that wait.
    pending_rows: i64,
    /// For how long the oldest of them has.
    oldest_pending_ms: Option<i64>,
    /// Changes written, or found to be overtaken.
    processed: i64,
    /// Tries that failed.
    failed: i64,
    /// Letters.
    dead_lettered: i64,
    /// From log to target, half of the changes took no longer.
    p50_ms: Option<i64>,
    /// And nineteen of twenty.
    p95_ms: Option<i64>,
}

/// Samples, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    samples: Vec<Sample>,
}

/// The last hour, for charts.
#[utoipa::path(get, path = "/api/history", operation_id = "list_history", params(Which), tag = "metrics",
    responses((status = OK, body = History)))]
pub async fn list(State(admin): State<Admin>, Params(which): Params<Which>) -> Result<Json<History>, Problem> {
    let minutes = which.minutes.unwrap_or(60).clamp(1, 60);
    let database = admin.database().await?;
    let moments =
        delivery::read_history(&database, which.subscription.as_deref().unwrap_or(ELASTICSEARCH), minutes).await?;
    let totals: Vec<Totals> = moments.iter().map(|moment| Totals::of(moment.totals.clone())).collect();
    let samples = moments.into_iter().skip(1).zip(totals.windows(2)).map(|(moment, pair)| {
        let added = pair[1].since(&pair[0]);
        Sample {
            at: moment.at,
            pending_rows: moment.pending_rows,
            oldest_pending_ms: moment.oldest_pending_ms,
            processed: [WRITTEN, STALE, GONE].map(|measure| added.get(measure)).iter().sum(),
            failed: added.get(RETRIED) + added.get(CONFIGURATION),
            dead_lettered: added.get(DEAD_LETTERED),
            p50_ms: added.quantile_ms(0.5),
            p95_ms: added.quantile_ms(0.95),
        }
    });
    Ok(Json(History { samples: samples.collect() }))
}
