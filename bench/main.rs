//! The program behind `make bench`.

fn main() -> std::process::ExitCode {
    fusebox_bench::main()
}
