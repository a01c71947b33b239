//! Rank and world size of this process, from the environment variables that launchers set.

/// A launcher, and the variables in which its processes find their rank and the world size.
struct Launcher {
    rank: &'static str,
    world_size: &'static str,
    name: &'static str,
}

/// A launcher that runs inside another one comes before it: `torchrun` and `mpirun` run in Slurm jobs, and all of them
/// run in pods.
const LAUNCHERS: [Launcher; 4] = [
    Launcher { rank: "RANK", world_size: "WORLD_SIZE", name: "torchrun" },
    Launcher { rank: "OMPI_COMM_WORLD_RANK", world_size: "OMPI_COMM_WORLD_SIZE", name: "Open MPI" },
    Launcher { rank: "SLURM_PROCID", world_size: "SLURM_NTASKS", name: "Slurm" },
    // Kubernetes numbers the pods of an indexed job but doesn't give them their count, so the job has to set it.
    Launcher { rank: "JOB_COMPLETION_INDEX", world_size: "WORLD_SIZE", name: "a Kubernetes indexed job" },
];

/// Rank and world size from the variables that `lookup` finds, or the reason why there are none.
pub(crate) fn rank_from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<(usize, usize), String> {
    let number = |name: &str, value: &str| {
        value.trim().parse::<usize>().map_err(|_| format!("{name} is '{value}', which is no number"))
    };

    let mut incomplete = Vec::new();
    for Launcher { rank, world_size, .. } in LAUNCHERS {
        match (lookup(rank), lookup(world_size)) {
            (Some(own), Some(all)) => return Ok((number(rank, &own)?, number(world_size, &all)?)),
            (Some(own), None) if rank == "JOB_COMPLETION_INDEX" => incomplete.push(format!(
                "JOB_COMPLETION_INDEX is '{own}', and Kubernetes doesn't give pods their count: set WORLD_SIZE to the \
                 job's completions in the env of its pod template"
            )),
            (Some(own), None) => incomplete.push(format!("{rank} is '{own}' and {world_size} is not set")),
            (None, _) => {}
        }
    }
    if !incomplete.is_empty() {
        return Err(incomplete.join("; "));
    }

    let known: Vec<_> = LAUNCHERS
        .iter()
        .map(|Launcher { rank, world_size, name }| format!("{rank} and {world_size} ({name})"))
        .collect();
    Err(format!("none of these pairs is set: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<(usize, usize), String> {
        rank_from_environment(|name| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned()))
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

    /// A daemon of mpirun that Slurm starts passes its own rank on to all processes that it starts.
    #[test]
    fn the_innermost_launcher_counts() {
        let mpi = [("OMPI_COMM_WORLD_RANK", "9"), ("OMPI_COMM_WORLD_SIZE", "12")];
        assert_eq!(of(&[&SLURM[..], &mpi].concat()), Ok((9, 12)));
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "16")];
        assert_eq!(of(&[&SLURM[..], &mpi, &torchrun, &[KUBERNETES]].concat()), Ok((1, 16)));
        // An incomplete pair is ignored where another pair is complete.
        assert_eq!(of(&[&SLURM[..], &[("RANK", "1")]].concat()), Ok((5, 6)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = of(&[]).unwrap_err();
        for Launcher { rank, world_size, name } in LAUNCHERS {
            assert!(none.contains(rank) && none.contains(world_size) && none.contains(name), "{none}");
        }
        let index = of(&[KUBERNETES]).unwrap_err();
        assert!(index.contains("'3'") && index.contains("set WORLD_SIZE to the job's completions"), "{index}");
        let half = of(&[("RANK", "1")]).unwrap_err();
        assert!(half.contains("WORLD_SIZE is not set"), "{half}");
        assert_eq!(of(&[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err(), "RANK is 'x', which is no number");
        assert_eq!(of(&[("RANK", "1"), ("WORLD_SIZE", "-2")]).unwrap_err(), "WORLD_SIZE is '-2', which is no number");
    }
}
