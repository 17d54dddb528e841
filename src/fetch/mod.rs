//! Downloads, checksums and the image cache.
