//! How GPUs are doing, as NVIDIA's management library tells. It comes with the driver and is opened
//! at run time; without it nothing is known.

use std::{ffi::OsStr, sync::LazyLock};

use nvml_wrapper::{Device, Nvml, enum_wrappers::device::TemperatureSensor};

use crate::ops::gpu_info::{GpuInfo, GpuState};

/// The name that the driver's package and the container toolkit give it; the name without a version
/// comes with the development files only.
const LIBRARY: &str = "libnvidia-ml.so.1";

static LIBRARY_IF_THERE: LazyLock<Option<Nvml>> = LazyLock::new(|| {
    let opened = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
    opened.ok()
});

/// How these GPUs are doing; those that the library does not know are left out.
pub(crate) fn gpu_states(gpus: &[GpuInfo]) -> Vec<GpuState> {
    let Some(nvml) = LIBRARY_IF_THERE.as_ref() else {
        return Vec::new();
    };
    // The two libraries number GPUs differently; the UUID is the same.
    let state = |gpu: &GpuInfo| {
        let device = nvml.device_by_uuid(gpu.uuid.as_str()).ok()?;
        Some(state(gpu.ordinal, &device))
    };
    gpus.iter().filter_map(state).collect()
}

/// What the device tells. Not every card has every sensor.
fn state(ordinal: usize, device: &Device<'_>) -> GpuState {
    let memory = device.memory_info().ok();
    let utilization = device.utilization_rates().ok();
    let temperature = device.temperature(TemperatureSensor::Gpu).ok();
    let milliwatts = device.power_usage().ok();
    GpuState {
        ordinal,
        memory: memory.map(|memory| (memory.used, memory.total)),
        utilization: utilization.map(|rates| f64::from(rates.gpu) / 100.0),
        temperature: temperature.map(f64::from),
        power: milliwatts.map(|milliwatts| f64::from(milliwatts) / 1000.0),
    }
}
