//! Volume groups before their disks have lengths.

use std::collections::BTreeSet;

use super::{LayoutError, Names, Plan};
use crate::disk::config::{self, LvKind};
use crate::disk::lvm;

impl Plan {
    /// Plans volume groups, and physical volumes outside of them. Their lengths
    /// come later.
    pub(super) fn plan_lvm(
        &self,
        names: &Names,
        creation_time: u64,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<lvm::Vg>, Vec<lvm::Pv>), LayoutError> {
        let (mut groups, mut orphans) = (Vec::new(), Vec::new());
        for item in &self.config.lvms {
            let options = item
                .pvs
                .iter()
                .map(|pv| (&pv.name, &pv.options))
                .chain(item.vgs.iter().map(|vg| (&vg.name, &vg.options)))
                .chain(item.lvs.iter().map(|lv| (&lv.name, &lv.options)));
            for (name, options) in options {
                // These only silence questions of LVM's programs.
                let idle = ["--force", "-f", "-ff", "--yes", "-y", "--quiet", "-q"];
                for option in options
                    .iter()
                    .filter(|option| !idle.contains(&option.as_str()))
                {
                    warnings.push(format!("lvm option `{option}` of `{name}` is ignored"));
                }
            }
            let pv = |pv: &config::Pv| lvm::Pv {
                name: pv.name.clone(),
                uuid: names.uuid("pv", &pv.name),
                bytes: 0,
                device: self.device(&pv.base),
            };
            for group in &item.vgs {
                let pvs = item.pvs.iter();
                let pvs = group
                    .base
                    .iter()
                    .filter_map(|name| pvs.clone().find(|pv| pv.name == *name))
                    .map(pv)
                    .collect();
                let mut lvs = Vec::new();
                for lv in item.lvs.iter().filter(|lv| lv.base == group.name) {
                    let kind = match (lv.kind, &lv.thin_pool) {
                        (LvKind::Linear, _) => lvm::Kind::Linear,
                        (LvKind::ThinPool, _) => lvm::Kind::ThinPool,
                        (LvKind::Thin, Some(pool)) => lvm::Kind::Thin(pool.clone()),
                        (LvKind::Thin, None) => {
                            return Err(lvm::LvmError::NoPool {
                                lv: lv.name.clone(),
                                vg: group.name.clone(),
                            }
                            .into());
                        }
                    };
                    let holder = self.config.mkfs.iter().find(|mkfs| mkfs.base == lv.name);
                    if let (LvKind::ThinPool, Some(mkfs)) = (lv.kind, holder) {
                        return Err(lvm::LvmError::PoolAsBase {
                            pool: lv.name.clone(),
                            node: mkfs.name.clone(),
                        }
                        .into());
                    }
                    lvs.push(lvm::Lv {
                        name: lv.name.clone(),
                        uuid: names.uuid("lv", &lv.name),
                        size: lv.size.clone(),
                        kind,
                    });
                }
                self.check_sectors(item, group)?;
                let uuid = names.uuid("vg", &group.name);
                let name = group.name.clone();
                for name in [&name].into_iter().chain(lvs.iter().map(|lv| &lv.name)) {
                    if !lvm::is_valid_name(name) {
                        return Err(lvm::LvmError::Name { name: name.clone() }.into());
                    }
                }
                groups.push(lvm::Vg {
                    name,
                    uuid,
                    pvs,
                    lvs,
                    creation_time,
                });
            }
            let used = |name: &String| item.vgs.iter().any(|vg| vg.base.contains(name));
            orphans.extend(item.pvs.iter().filter(|pv| !used(&pv.name)).map(pv));
        }
        Ok((groups, orphans))
    }

    /// LVM takes no group whose physical volumes have sectors of different sizes.
    fn check_sectors(&self, item: &config::Lvm, group: &config::Vg) -> Result<(), LayoutError> {
        let pvs = item.pvs.iter().filter(|pv| group.base.contains(&pv.name));
        let sizes: BTreeSet<u32> = pvs
            .flat_map(|pv| self.disks_of(&pv.base))
            .map(|disk| self.disks[disk].sector_size)
            .collect();
        if sizes.len() > 1 {
            let vg = group.name.clone();
            return Err(LayoutError::MixedSectors { vg });
        }
        Ok(())
    }
}
