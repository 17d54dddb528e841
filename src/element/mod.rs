//! Elements: discovery, dependencies, merged hooks, metadata. Pure: no processes.
