//! With the feature `cuda`: compiles the kernels of `src/ops/cuda/kernels` by NVRTC, to machine
//! code for each compute capability in `RERANKER_CUDA_CAPABILITIES` (default `75 80 90`; code for
//! 8.0 runs on 8.6 and 8.9 too) and to PTX of the newest, which a driver compiles for GPUs newer
//! than that. Nothing else of a CUDA toolkit is needed, no GPU and no driver:
//! `scripts/cuda-toolkit.sh` fetches what is.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::compile();
}

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "calling NVIDIA's compiler")]
#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script everything by the environment"
)]
mod cuda {
    use std::{
        env,
        ffi::{CString, c_char, c_int, c_void},
        fmt::Write as _,
        fs,
        path::{Path, PathBuf},
        ptr,
    };

    use libloading::{Library, Symbol};

    const SOURCES: &str = "src/ops/cuda/kernels";
    /// Where a toolkit is if no variable says so: NVIDIA's own place, and that of
    /// `scripts/cuda-toolkit.sh`.
    const PLACES: [&str; 2] = ["/usr/local/cuda", "target/cuda-12.2"];
    const CAPABILITIES: &str = "RERANKER_CUDA_CAPABILITIES";

    pub(super) fn compile() {
        println!("cargo:rerun-if-changed={SOURCES}");
        for variable in [CAPABILITIES, "CUDA_PATH", "CUDA_HOME"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        let capabilities = env::var(CAPABILITIES).unwrap_or_else(|_| "75 80 90".to_owned());
        let mut capabilities: Vec<u32> = capabilities
            .split([' ', ','])
            .filter(|text| !text.is_empty())
            .map(|text| {
                text.parse()
                    .unwrap_or_else(|_| panic!("{CAPABILITIES}: `{text}` is not a number like 75"))
            })
            .collect();
        capabilities.sort_unstable();
        let newest = *capabilities
            .last()
            .unwrap_or_else(|| panic!("{CAPABILITIES} is empty; write `75` for a T4"));
        assert!(
            capabilities[0] >= 75,
            "{CAPABILITIES}: {} is too old: the kernels need 75 (Turing) or newer",
            capabilities[0]
        );

        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        let nvrtc = Nvrtc::open();
        let mut images = String::from("&[\n");
        for capability in capabilities {
            let file = format!("sm_{capability}.cubin");
            let code = nvrtc.compile(&format!("sm_{capability}"), Form::MachineCode);
            fs::write(out.join(&file), code).expect("OUT_DIR is writable");
            list(&mut images, capability, "MachineCode", &out.join(file));
        }
        let file = format!("compute_{newest}.ptx");
        let ptx = nvrtc.compile(&format!("compute_{newest}"), Form::Ptx);
        fs::write(out.join(&file), ptx).expect("OUT_DIR is writable");
        list(&mut images, newest, "Ptx", &out.join(file));
        images.push(']');
        fs::write(out.join("images.rs"), images).expect("OUT_DIR is writable");
    }

    fn list(images: &mut String, capability: u32, form: &str, file: &Path) {
        writeln!(
            images,
            "Image {{ capability: {capability}, form: Form::{form}, bytes: include_bytes!(\"{}\") }},",
            file.display()
        )
        .expect("a String takes everything");
    }

    #[derive(Clone, Copy)]
    enum Form {
        MachineCode,
        Ptx,
    }

    /// NVIDIA's run-time compiler (<https://docs.nvidia.com/cuda/nvrtc>), opened by hand: linking
    /// to it would need it on every machine that runs the program.
    struct Nvrtc(Library);

    type Program = *mut c_void;

    impl Nvrtc {
        fn open() -> Self {
            let toolkits = ["CUDA_PATH", "CUDA_HOME"]
                .into_iter()
                .filter_map(env::var_os);
            let mut tried = Vec::new();
            for toolkit in toolkits.map(PathBuf::from).chain(PLACES.map(PathBuf::from)) {
                for folder in ["lib64", "lib"] {
                    for name in ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"] {
                        let path = toolkit.join(folder).join(name);
                        // SAFETY: loading NVIDIA's library runs its initialisers, which ask nothing
                        // of us.
                        match unsafe { Library::new(&path) } {
                            Ok(library) => return Self(library),
                            Err(_) => tried.push(path),
                        }
                    }
                }
            }
            panic!(
                "the feature `cuda` needs NVIDIA's compiler libnvrtc.so.12 at build time; set CUDA_PATH to a toolkit of CUDA 12, \
                 or fetch it with `bash scripts/cuda-toolkit.sh`. Tried {tried:?}"
            );
        }

        fn compile(&self, architecture: &str, form: Form) -> Vec<u8> {
            let source = Path::new(SOURCES).join("kernels.cu");
            let text = CString::new(fs::read(&source).expect("the kernels are in the repository"))
                .expect("a text holds no NUL");
            let options: Vec<CString> = [
                format!("--gpu-architecture={architecture}"),
                format!("--include-path={SOURCES}"),
                "--std=c++17".to_owned(),
            ]
            .into_iter()
            .map(|option| CString::new(option).expect("options hold no NUL"))
            .collect();
            let pointers: Vec<*const c_char> =
                options.iter().map(|option| option.as_ptr()).collect();
            let mut program: Program = ptr::null_mut();
            // SAFETY: the signatures are those of nvrtc.h, which are the same in CUDA 11, 12 and
            // 13; every pointer outlives its call.
            unsafe {
                type Create = unsafe extern "C" fn(
                    *mut Program,
                    *const c_char,
                    *const c_char,
                    c_int,
                    *const *const c_char,
                    *const *const c_char,
                ) -> c_int;
                type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
                let created = self.get::<Create>("nvrtcCreateProgram")(
                    &raw mut program,
                    text.as_ptr(),
                    c"kernels.cu".as_ptr(),
                    0,
                    ptr::null(),
                    ptr::null(),
                );
                assert_eq!(created, 0, "nvrtcCreateProgram");
                let count = c_int::try_from(pointers.len()).expect("three");
                let compiled =
                    self.get::<Compile>("nvrtcCompileProgram")(program, count, pointers.as_ptr());
                let log = self.take(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
                assert_eq!(
                    compiled,
                    0,
                    "{} for {architecture}:\n{}",
                    source.display(),
                    String::from_utf8_lossy(&log)
                );
                match form {
                    Form::MachineCode => self.take(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN"),
                    Form::Ptx => self.take(program, "nvrtcGetPTXSize", "nvrtcGetPTX"),
                }
            }
        }

        /// # Safety
        /// `program` is NVRTC's, and the names are those of a function for a size and of the one
        /// for that many bytes.
        unsafe fn take(&self, program: Program, size: &str, content: &str) -> Vec<u8> {
            type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
            type Content = unsafe extern "C" fn(Program, *mut u8) -> c_int;
            let mut bytes = 0;
            // SAFETY: the caller's promise; the buffer is as long as NVRTC said.
            unsafe {
                assert_eq!(self.get::<Size>(size)(program, &raw mut bytes), 0, "{size}");
                let mut out = vec![0; bytes];
                assert_eq!(
                    self.get::<Content>(content)(program, out.as_mut_ptr()),
                    0,
                    "{content}"
                );
                out
            }
        }

        /// # Safety
        /// `F` is the type of the function of that name.
        unsafe fn get<F>(&self, name: &str) -> Symbol<'_, F> {
            // SAFETY: the caller's promise.
            unsafe { self.0.get(name.as_bytes()) }
                .unwrap_or_else(|error| panic!("libnvrtc has no {name}: {error}"))
        }
    }
}
