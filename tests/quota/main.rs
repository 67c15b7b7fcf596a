//! The books against the files: what a project is charged for is what a walk of its plain files gives, to the byte,
//! after every kind of operation, every kill and every edit below the mount; and what the limits do to programs.

#[cfg(test)]
mod enforcement;
#[cfg(test)]
mod full;
#[cfg(test)]
mod ground;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod mappings;
#[cfg(test)]
mod off;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod outside;
#[cfg(test)]
mod sequences;
