//! The compiled kernels that are part of this program, and which of them suit a GPU.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use cudarc::{
    driver::{CudaContext, CudaModule},
    nvrtc::Ptx,
};

/// Kernels compiled for one compute capability.
struct Image {
    /// Times ten.
    capability: u32,
    form: Form,
    bytes: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Runs on GPUs of the same major version, if they are not older.
    MachineCode,
    /// The driver compiles it for any GPU that is not older.
    Ptx,
}

/// The images that `build.rs` compiled, oldest first.
const IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The oldest compute capability, times ten, that the program is built for.
pub(super) const OLDEST: u32 = IMAGES[0].capability;

/// Loads the kernels for a GPU of this capability.
pub(super) fn load(context: &Arc<CudaContext>, capability: u32) -> Result<Arc<CudaModule>> {
    let image = best(IMAGES, capability).context("no kernels are old enough for this GPU")?;
    let module = match image.form {
        Form::MachineCode => Ptx::from_binary(image.bytes.to_vec()),
        Form::Ptx => Ptx::from_src(std::str::from_utf8(image.bytes)?.trim_end_matches('\0')),
    };
    context.load_module(module).with_context(|| {
        format!(
            "the driver does not take the kernels for compute capability {}",
            image.capability
        )
    })
}

/// Machine code where there is any that runs, else PTX; the newest of either.
fn best(images: &[Image], capability: u32) -> Option<&Image> {
    let newest = |form: Form, oldest: u32| {
        let fits = images.iter().filter(|image| {
            image.form == form && (oldest..=capability).contains(&image.capability)
        });
        fits.max_by_key(|image| image.capability)
    };
    newest(Form::MachineCode, capability / 10 * 10).or_else(|| newest(Form::Ptx, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_gets_the_newest_kernels_that_run_on_it() {
        const SIZES: &[(u32, Form)] = &[
            (75, Form::MachineCode),
            (80, Form::MachineCode),
            (90, Form::MachineCode),
            (90, Form::Ptx),
        ];
        let images: Vec<Image> = SIZES
            .iter()
            .map(|&(capability, form)| Image {
                capability,
                form,
                bytes: &[],
            })
            .collect();
        let of = |capability| best(&images, capability).map(|image| (image.capability, image.form));
        assert_eq!(of(75), Some((75, Form::MachineCode)));
        assert_eq!(of(86), Some((80, Form::MachineCode)));
        assert_eq!(of(90), Some((90, Form::MachineCode)));
        assert_eq!(of(120), Some((90, Form::Ptx)), "Blackwell compiles it");
        assert_eq!(of(61), None);
    }

    /// Driver 535 knows PTX up to 8.2 and refuses the rest.
    #[test]
    fn what_was_built_loads_on_the_oldest_driver() {
        for image in IMAGES {
            match image.form {
                Form::MachineCode => {
                    assert_eq!(&image.bytes[..4], b"\x7fELF");
                    let flags = u32::from_le_bytes(image.bytes[48..52].try_into().unwrap());
                    assert_eq!(flags & 0xFF, image.capability, "the ELF's own word for it");
                }
                Form::Ptx => {
                    let text = std::str::from_utf8(image.bytes).unwrap();
                    let version = text.split(".version ").nth(1).unwrap();
                    let (major, minor) = version.lines().next().unwrap().split_once('.').unwrap();
                    let version: (u32, u32) =
                        (major.trim().parse().unwrap(), minor.trim().parse().unwrap());
                    assert!(
                        version <= (8, 2),
                        "PTX {version:?} comes from a compiler newer than CUDA 12.2's"
                    );
                    assert!(text.contains(&format!(".target sm_{}", image.capability)));
                }
            }
        }
    }
}
