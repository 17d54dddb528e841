//! Block-device configuration, as DIB reads it.
