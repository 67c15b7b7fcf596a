//! Restoring: what was deleted, replaced or overwritten comes back as it was, whatever stands there, breaks or dies.

#[cfg(test)]
mod accidents;
#[cfg(test)]
mod attributes;
#[cfg(test)]
mod clone;
#[cfg(test)]
mod deleted;
#[cfg(test)]
mod ground;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod undo;
