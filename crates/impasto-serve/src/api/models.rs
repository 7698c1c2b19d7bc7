//! `/v1/models`: the models, their layers, and what of them is in memory.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ErrorBody};
use crate::models::{CatalogError, LayerState, ModelState, Summary};

/// All models.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// The models, each followed by its layers if there are several.
    pub data: Vec<ModelObject>,
}

/// A model, or a layer of one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelObject {
    /// The name to ask for it by.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Seconds since 1970 of the last change of its file.
    pub created: u64,
    /// Always `impasto`.
    pub owned_by: &'static str,
    /// More about it.
    pub impasto: ModelDetail,
}

/// More about a model.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ModelDetail {
    /// About a model.
    Model(Box<WholeModel>),
    /// About a layer.
    Layer {
        /// The model.
        of: String,
        /// The layer, from 1.
        layer: usize,
    },
}

/// A model and its layers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WholeModel {
    /// Whether any layer is in memory.
    pub state: ModelState,
    /// Why it could not be loaded, or does not become finer.
    pub error: Option<String>,
    /// Whether it has a chat template; null while it is not in memory.
    pub chat: Option<bool>,
    /// The most tokens of a text; null while it is not in memory.
    pub context: Option<usize>,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Bytes of it that are there.
    pub arrived_bytes: u64,
    /// The model that it is a delta of.
    pub base: Option<String>,
    /// Its layers, the coarsest first.
    pub layers: Vec<LayerState>,
    /// What answers when the model is asked for without a layer; null while it is not in memory.
    pub serving: Option<Serving>,
}

/// What answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Serving {
    /// The layer.
    pub layer: usize,
    /// What the guardrails have done: `as requested`, `promoted` or `conservative`.
    pub profile: &'static str,
    /// Blocks whose weights are finer than those of the layer.
    pub promoted_blocks: usize,
}

/// Lists all models.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = ModelList)))]
pub async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: objects(&app) })
}

/// Describes a model.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "models", params(("model" = String, Path, description = "Its name.")),
    responses((status = 200, body = ModelObject), (status = 404, body = ErrorBody))
)]
pub async fn one(State(app): State<Arc<App>>, Path(model): Path<String>) -> Result<Json<ModelObject>, ApiError> {
    let all = objects(&app);
    let known = all.iter().map(|object| object.id.clone()).collect();
    let found = all.into_iter().find(|object| object.id == model);
    Ok(Json(found.ok_or(CatalogError::Unknown { name: model, known })?))
}

fn objects(app: &App) -> Vec<ModelObject> {
    app.catalog.summaries().into_iter().flat_map(of_summary).collect()
}

fn of_summary(summary: Summary) -> Vec<ModelObject> {
    let object = |id, impasto| ModelObject { id, object: "model", created: summary.created, owned_by: "impasto", impasto };
    let layers = summary.layers.iter().filter(|_| summary.layers.len() > 1);
    let layers = layers.map(|layer| {
        object(layer.id.clone(), ModelDetail::Layer { of: summary.id.clone(), layer: layer.layer })
    });
    let layers: Vec<ModelObject> = layers.collect();
    let loaded = summary.loaded.as_ref();
    let whole = WholeModel {
        state: summary.state,
        error: summary.error.clone(),
        chat: loaded.map(|loaded| loaded.template().is_ok()),
        context: loaded.map(|loaded| loaded.model().network().max_context()),
        file_bytes: summary.file_bytes,
        arrived_bytes: summary.arrived_bytes,
        base: summary.base.clone(),
        layers: summary.layers.clone(),
        serving: loaded.map(|loaded| {
            let guard = loaded.guard();
            Serving { layer: loaded.quality().layer, profile: guard.profile.name(), promoted_blocks: guard.promoted }
        }),
    };
    let first = object(summary.id.clone(), ModelDetail::Model(Box::new(whole)));
    std::iter::once(first).chain(layers).collect()
}
