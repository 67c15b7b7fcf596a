//! The worker dies while programs work: no program may notice more than a pause.
//!
//! [`load`] holds the programs. Each knows exactly what every call must return and what the bytes must be, so that a
//! request that is lost, carried out twice or answered wrongly fails its test. [`killer`] ends workers at random
//! moments. `WSGUARD_KILLS` says how often (30 unless set); `tests/README.md` has the command for a thousand.
//! [`stages`] kills them at every stage of every operation that must not happen twice.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod crash_loop;
#[cfg(test)]
mod fd_store;
#[cfg(test)]
mod ground;
#[cfg(test)]
mod hanging;
#[cfg(test)]
mod killer;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod load;
#[cfg(test)]
mod many;
#[cfg(test)]
mod random;
#[cfg(test)]
mod stages;
#[cfg(test)]
mod stall;
#[cfg(test)]
mod stopped;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod upgrade;
