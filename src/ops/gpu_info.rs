//! What is known of a GPU; there in every build, for whoever tells about it.

/// A GPU, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number, among those that the driver shows to this process.
    pub ordinal: usize,
    /// As `Tesla T4`.
    pub name: String,
    /// Bytes of its memory.
    pub memory: usize,
    /// The compute capability times ten: 75 is 7.5.
    pub capability: u32,
    /// The newest CUDA that the driver knows, as the driver counts: 12020 is 12.2.
    pub cuda: u32,
    /// The version of the driver, as `535.183.01`, or `unknown`.
    pub driver: String,
}

impl GpuInfo {
    /// As `7.5`.
    pub fn compute_capability(&self) -> String {
        dotted(self.capability, 10)
    }

    /// As `12.2`.
    pub fn cuda_version(&self) -> String {
        dotted(self.cuda / 10, 100)
    }
}

/// A version in one number as people write it.
pub(super) fn dotted(version: u32, base: u32) -> String {
    format!("{}.{}", version / base, version % base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        let t4 = GpuInfo {
            ordinal: 0,
            name: "Tesla T4".to_owned(),
            memory: 16 << 30,
            capability: 75,
            cuda: 12_020,
            driver: "535.183.01".to_owned(),
        };
        assert_eq!(
            (t4.compute_capability(), t4.cuda_version()),
            ("7.5".to_owned(), "12.2".to_owned())
        );
    }
}
