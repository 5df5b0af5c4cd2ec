//! Writes the generated definitions into the directory given as argument: `make crds`.
//!
//! It only writes what `fusebox_api::crd` says, so that files and types cannot drift.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("usage: crdgen DIRECTORY")?);
    for definition in fusebox_api::crd::all() {
        let name = definition.metadata.name.as_deref().ok_or("a definition has no name")?;
        std::fs::write(directory.join(format!("{name}.yaml")), serde_yaml::to_string(&definition)?)?;
    }
    Ok(())
}
