//! Archives of this program, of `tar`, and broken ones.

use super::*;
