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
    ) -> Result<(Vec<lvm::Vg>, Vec<lvm::Pv>), LayoutError> {
        let (mut groups, mut orphans) = (Vec::new(), Vec::new());
        for item in &self.config.lvms {
            let pv = |pv: &config::Pv| -> Result<lvm::Pv, lvm::LvmError> {
                let options = lvm::options::physical(&pv.name, &pv.options)?;
                Ok(lvm::Pv {
                    name: pv.name.clone(),
                    id: options.id.unwrap_or(names.uuid("pv", &pv.name).into()),
                    bytes: 0,
                    device: self.device(&pv.base),
                    options,
                })
            };
            for group in &item.vgs {
                let pvs = item.pvs.iter();
                let pvs = group
                    .base
                    .iter()
                    .filter_map(|name| pvs.clone().find(|pv| pv.name == *name))
                    .map(pv)
                    .collect::<Result<_, _>>()?;
                let mut lvs = Vec::new();
                for lv in item.lvs.iter().filter(|lv| lv.base == group.name) {
                    let options = lvm::options::logical(&lv.name, &lv.options)
                        .map_err(lvm::LvmError::from)?;
                    let kind = match (lv.kind, &lv.thin_pool) {
                        (LvKind::Linear, _) if options.thin_pool => lvm::Kind::ThinPool,
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
                    if let (lvm::Kind::ThinPool, Some(mkfs)) = (&kind, holder) {
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
                        options,
                    });
                }
                self.check_sectors(item, group)?;
                let uuid = names.uuid("vg", &group.name);
                let name = group.name.clone();
                lvm::check_names(&name, &lvs)?;
                groups.push(lvm::Vg {
                    name,
                    uuid,
                    pvs,
                    lvs,
                    creation_time,
                    options: lvm::options::group(&group.name, &group.options)
                        .map_err(lvm::LvmError::from)?,
                });
            }
            let used = |name: &String| item.vgs.iter().any(|vg| vg.base.contains(name));
            for free in item.pvs.iter().filter(|pv| !used(&pv.name)) {
                orphans.push(pv(free)?);
            }
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
