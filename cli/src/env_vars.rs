//! Every environment variable that the commands read, once.

/// The daemon's control socket; `--socket` wins over it.
pub const WSGUARD_SOCKET: &str = "WSGUARD_SOCKET";

/// The directory of socket and mounts; `--runtime-dir` wins over it.
pub const WSGUARD_RUNTIME_DIR: &str = "WSGUARD_RUNTIME_DIR";

/// The directory of the catalog and of `daemon.log`; `--state-dir` wins over it.
pub const WSGUARD_STATE_DIR: &str = "WSGUARD_STATE_DIR";

/// The daemon's config file; `--config` wins over it.
pub const WSGUARD_CONFIG: &str = "WSGUARD_CONFIG";

/// Where Docker listens, as Docker's own client reads it; `doctor` asks there.
pub const DOCKER_HOST: &str = "DOCKER_HOST";
