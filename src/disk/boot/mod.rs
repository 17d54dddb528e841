//! Boot code for BIOS and EFI.
