//! Looking at directories and files as they were. Owners do it in their workspaces, root in all, as they restore.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, State};
use axum::routing::post;
use axum::{Json, Router};
use wsguard_api::{PastListing, PastPiece, PastRequest};

use super::restore::Site;
use super::routes::{Answer, Caller, Context, Shared, look_up, parse};
use crate::restore::look;

/// Largest request body, bytes: a path.
const BODY_LIMIT: usize = 64 * 1024;

/// The routes.
pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/past/list", post(post_list)).route("/past/read", post(post_read))
}

async fn post_list(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<PastListing> {
    let viewer = peer.viewer()?;
    let request: PastRequest = parse(body, BODY_LIMIT)?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &request.path)?;
        let (place, limit) = (site.place(), usize::try_from(request.limit).unwrap_or(usize::MAX));
        let mut listing = look::list(site.ground(), &place.relative, request.when.as_ref(), limit)
            .map_err(|error| error.to_api())?;
        listing.workspace.clone_from(&place.name);
        listing.mount_point.clone_from(&place.mount_point);
        Ok(listing)
    };
    Ok(Json(look_up("the look at a directory", answer).await?))
}

async fn post_read(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<PastPiece> {
    let viewer = peer.viewer()?;
    let request: PastRequest = parse(body, BODY_LIMIT)?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &request.path)?;
        let (place, limit) = (site.place(), usize::try_from(request.limit).unwrap_or(usize::MAX));
        let mut piece = look::read(site.ground(), &place.relative, request.when.as_ref(), limit)
            .map_err(|error| error.to_api())?;
        piece.workspace.clone_from(&place.name);
        Ok(piece)
    };
    Ok(Json(look_up("the look at a file", answer).await?))
}
