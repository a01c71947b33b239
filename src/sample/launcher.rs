//! Which of how many processes this is, by what launchers tell their processes.

/// Variables of rank and world size. Who starts processes inside of another's comes first: `torchrun` and `mpirun` run in
/// jobs of Slurm, and all of them in pods.
const PAIRS: [(&str, &str, &str); 4] = [
    ("RANK", "WORLD_SIZE", "torchrun"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "Open MPI"),
    ("SLURM_PROCID", "SLURM_NTASKS", "Slurm"),
    // Kubernetes numbers the pods of an indexed job and tells none how many they are: the job must.
    ("JOB_COMPLETION_INDEX", "WORLD_SIZE", "a Kubernetes indexed job"),
];

/// Rank and world size, by the variables that `lookup` finds, or why there are none.
pub(crate) fn shard(lookup: impl Fn(&str) -> Option<String>) -> Result<(usize, usize), String> {
    let number = |name: &str, value: &str| {
        value.trim().parse::<usize>().map_err(|_| format!("{name} is '{value}', which is no number"))
    };
    let mut halves = Vec::new();
    for (rank, world_size, _) in PAIRS {
        match (lookup(rank), lookup(world_size)) {
            (Some(own), Some(all)) => return Ok((number(rank, &own)?, number(world_size, &all)?)),
            (Some(own), None) if rank == "JOB_COMPLETION_INDEX" => halves.push(format!(
                "JOB_COMPLETION_INDEX is '{own}', and Kubernetes tells no pod how many there are: set WORLD_SIZE to the \
                 job's completions in the env of its pod template"
            )),
            (Some(own), None) => halves.push(format!("{rank} is '{own}' and {world_size} is not set")),
            (None, _) => {}
        }
    }
    if !halves.is_empty() {
        return Err(halves.join("; "));
    }
    let known: Vec<_> =
        PAIRS.iter().map(|(rank, world_size, launcher)| format!("{rank} and {world_size} ({launcher})")).collect();
    Err(format!("none of these pairs is set: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<(usize, usize), String> {
        shard(|name| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned()))
    }

    const SLURM: [(&str, &str); 2] = [("SLURM_PROCID", "5"), ("SLURM_NTASKS", "6")];
    const KUBERNETES: (&str, &str) = ("JOB_COMPLETION_INDEX", "3");

    #[test]
    fn each_launcher_is_understood() {
        assert_eq!(of(&[("RANK", "1"), ("WORLD_SIZE", " 2\n")]), Ok((1, 2)));
        assert_eq!(of(&SLURM), Ok((5, 6)));
        assert_eq!(of(&[("OMPI_COMM_WORLD_RANK", "7"), ("OMPI_COMM_WORLD_SIZE", "8")]), Ok((7, 8)));
        assert_eq!(of(&[KUBERNETES, ("WORLD_SIZE", "4")]), Ok((3, 4)));
    }

    /// A daemon of mpirun that Slurm starts hands its own number down to all processes that it starts.
    #[test]
    fn the_innermost_launcher_counts() {
        let mpi = [("OMPI_COMM_WORLD_RANK", "9"), ("OMPI_COMM_WORLD_SIZE", "12")];
        assert_eq!(of(&[&SLURM[..], &mpi].concat()), Ok((9, 12)));
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "16")];
        assert_eq!(of(&[&SLURM[..], &mpi, &torchrun, &[KUBERNETES]].concat()), Ok((1, 16)));
        // Half a pair is none, where another is whole.
        assert_eq!(of(&[&SLURM[..], &[("RANK", "1")]].concat()), Ok((5, 6)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = of(&[]).unwrap_err();
        for (rank, world_size, launcher) in PAIRS {
            assert!(none.contains(rank) && none.contains(world_size) && none.contains(launcher), "{none}");
        }
        let index = of(&[KUBERNETES]).unwrap_err();
        assert!(index.contains("'3'") && index.contains("set WORLD_SIZE to the job's completions"), "{index}");
        let half = of(&[("RANK", "1")]).unwrap_err();
        assert!(half.contains("WORLD_SIZE is not set"), "{half}");
        assert_eq!(of(&[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err(), "RANK is 'x', which is no number");
        assert_eq!(of(&[("RANK", "1"), ("WORLD_SIZE", "-2")]).unwrap_err(), "WORLD_SIZE is '-2', which is no number");
    }
}
