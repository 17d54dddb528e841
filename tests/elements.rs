//! The bundled element library: its form, and what each element does.
//!
//! Hooks are the library's code, so they run here: inside hooks in a chroot of a
//! scratch root made of the host's own tools, outside hooks beside it, both with
//! the programs that would need a package manager, a service manager or a disk
//! replaced by ones that only note how they were called.

#[path = "elements/access.rs"]
mod access;
#[path = "elements/boot.rs"]
mod boot;
#[path = "elements/cloud.rs"]
mod cloud;
#[path = "elements/core.rs"]
mod core_elements;
#[path = "elements/debian.rs"]
mod debian;
#[path = "elements/form.rs"]
mod form;
#[path = "elements/kernels.rs"]
mod kernels;
#[path = "elements/library.rs"]
mod library;
#[path = "elements/network.rs"]
mod network;
#[path = "elements/packages.rs"]
mod packages;
#[path = "elements/ramdisk.rs"]
mod ramdisk;
#[path = "elements/scratch.rs"]
mod scratch;
#[path = "elements/services.rs"]
mod services;
#[path = "elements/sources.rs"]
mod sources;
#[path = "elements/ubuntu.rs"]
mod ubuntu;

/// Every element of the library with the test of what it does.
const TESTED: &[(&str, fn())] = &[
    ("apt-conf", packages::apt_conf_replaces_the_file_for_good),
    (
        "apt-sources",
        packages::apt_sources_replaces_the_file_for_good,
    ),
    (
        "baremetal",
        kernels::kernel_and_ramdisk_lie_beside_the_image,
    ),
    (
        "base",
        core_elements::base_installs_and_updates_unless_told_not_to,
    ),
    (
        "block-device-efi",
        boot::efi_layout_has_an_esp_a_bios_boot_partition_and_a_root,
    ),
    (
        "block-device-efi-4k",
        boot::efi_4k_layout_has_sectors_of_4096_bytes,
    ),
    (
        "block-device-efi-lvm",
        boot::efi_lvm_layout_has_three_logical_volumes,
    ),
    (
        "block-device-gpt",
        boot::gpt_layout_has_a_bios_boot_partition_and_a_root,
    ),
    (
        "block-device-mbr",
        boot::mbr_layout_has_one_active_partition,
    ),
    (
        "bootloader",
        boot::bootloader_configures_and_installs_grub_for_each_layout,
    ),
    (
        "cache-url",
        packages::cache_url_is_found_by_path_and_brings_nothing,
    ),
    (
        "cleanup-kernel-initrd",
        kernels::only_files_of_the_kernel_that_boots_stay,
    ),
    ("cloud-init", cloud::cloud_init_enables_the_units_that_exist),
    (
        "cloud-init-datasources",
        cloud::datasources_are_listed_and_their_quirks_configured,
    ),
    (
        "cloud-init-nocloud",
        services::nocloud_sets_the_list_of_datasources,
    ),
    ("debian", debian::debian_sets_up_a_cloud_image),
    (
        "debian-minimal",
        debian::no_mirror_of_the_host_stays_in_the_image,
    ),
    (
        "debootstrap",
        debian::bootstrap_gets_exactly_what_the_variables_say,
    ),
    (
        "devuser",
        access::devuser_creates_the_user_with_key_password_and_sudo,
    ),
    (
        "dhcp-all-interfaces",
        network::every_interface_is_configured_by_one_program,
    ),
    (
        "dib-init-system",
        core_elements::init_system_is_checked_and_its_services_installed,
    ),
    (
        "dib-python",
        core_elements::dib_python_links_the_interpreter_for_the_build_only,
    ),
    ("dib-run-parts", core_elements::dib_run_parts_brings_nothing),
    (
        "disable-nouveau",
        services::nouveau_is_blacklisted_by_a_snippet,
    ),
    (
        "dkms",
        services::modules_are_built_for_the_kernels_of_the_image,
    ),
    ("dpkg", packages::dpkg_settings_of_the_build_do_not_stay),
    (
        "dracut-ramdisk",
        ramdisk::dracut_is_told_what_elements_bring,
    ),
    ("dynamic-login", services::the_command_line_lets_root_in),
    (
        "element-manifest",
        core_elements::element_manifest_lists_every_element,
    ),
    (
        "enable-serial-console",
        boot::serial_console_is_configured_for_each_init_system,
    ),
    (
        "ensure-venv",
        services::venv_is_a_package_of_its_own_on_debian_only,
    ),
    (
        "fail2ban",
        services::jails_are_brought_and_the_service_enabled,
    ),
    ("growroot", cloud::growroot_grows_partition_and_filesystem),
    (
        "install-bin",
        core_elements::install_bin_installs_files_but_no_helpers,
    ),
    (
        "install-static",
        core_elements::install_static_keeps_links_and_modes,
    ),
    (
        "install-types",
        core_elements::install_types_links_the_chosen_hooks,
    ),
    (
        "journal-to-console",
        services::the_journal_goes_to_the_console,
    ),
    ("local-config", access::local_config_brings_keys_and_proxies),
    (
        "manifests",
        core_elements::manifests_are_saved_without_secrets,
    ),
    (
        "modprobe",
        core_elements::modprobe_installs_snippets_and_the_blacklist,
    ),
    (
        "openssh-server",
        access::sshd_is_enabled_and_limited_to_algorithms_it_has,
    ),
    (
        "package-installs",
        packages::package_installs_call_the_helpers_for_their_phase,
    ),
    ("pip-and-virtualenv", services::pip_comes_from_packages_only),
    (
        "pkg-map",
        packages::maps_are_in_the_target_during_the_build_only,
    ),
    (
        "ramdisk",
        ramdisk::ramdisk_holds_the_programs_modules_and_fragments_of_all_elements,
    ),
    (
        "ramdisk-base",
        ramdisk::ramdisk_base_misses_no_program_and_brings_the_files_out,
    ),
    (
        "runtime-ssh-host-keys",
        access::host_keys_are_removed_and_made_at_boot,
    ),
    (
        "select-boot-kernel-initrd",
        kernels::the_newest_kernel_with_a_ramdisk_is_named,
    ),
    (
        "simple-init",
        network::glean_is_installed_as_asked_and_alone_configures_interfaces,
    ),
    (
        "source-repositories",
        sources::sources_of_every_type_are_brought_into_the_root,
    ),
    (
        "stable-interface-names",
        network::links_that_switch_stable_names_off_are_removed,
    ),
    (
        "svc-map",
        core_elements::service_names_are_merged_for_the_distribution,
    ),
    (
        "sysctl",
        services::kernel_settings_are_written_once_and_must_agree,
    ),
    ("sysprep", core_elements::sysprep_clears_the_machine_id),
    (
        "ubuntu",
        ubuntu::cloud_images_are_checked_and_take_the_users_archive,
    ),
    (
        "ubuntu-common",
        ubuntu::the_archive_goes_with_the_architecture,
    ),
    (
        "ubuntu-minimal",
        ubuntu::the_bootstrap_takes_what_the_sources_name,
    ),
    ("vm", boot::vm_needs_a_layout_and_a_bootloader),
];

#[test]
fn every_element_has_a_test_and_every_test_an_element() {
    let tested: Vec<&str> = TESTED.iter().map(|(name, _)| *name).collect();
    let names = library::elements()
        .into_iter()
        .map(|element| element.name)
        .collect::<Vec<_>>();
    assert_eq!(tested, names);
}
