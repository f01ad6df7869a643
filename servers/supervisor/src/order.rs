//! In which order tasks are started: each after those that it names.

/// The order in which tasks start, where task `i` starts after all of `after[i]`; those that may
/// start together stay in the order that they have.
///
/// # Errors
/// A cycle, if there is one: tasks each of which starts after the next, the last after the first.
pub fn order(after: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut placed = vec![false; after.len()];
    let mut order = Vec::with_capacity(after.len());
    while order.len() < after.len() {
        let next = (0..after.len())
            .find(|task| !placed[*task] && after[*task].iter().all(|on| placed[*on]));
        match next {
            Some(task) => {
                placed[task] = true;
                order.push(task);
            }
            None => return Err(cycle(after, &placed)),
        }
    }
    Ok(order)
}

/// A cycle among those who are not placed: each of them waits for another of them.
fn cycle(after: &[Vec<usize>], placed: &[bool]) -> Vec<usize> {
    let mut path: Vec<usize> = Vec::new();
    let mut at = placed.iter().position(|placed| !placed).unwrap_or(0);
    loop {
        if let Some(first) = path.iter().position(|seen| *seen == at) {
            return path.split_off(first);
        }
        path.push(at);
        match after[at].iter().find(|on| !placed[**on]) {
            Some(next) => at = *next,
            None => return path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn each_comes_after_those_that_it_names() {
        assert_eq!(order(&[]), Ok(vec![]));
        assert_eq!(order(&[vec![], vec![], vec![]]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[vec![2], vec![], vec![1]]), Ok(vec![1, 2, 0]));
        assert_eq!(order(&[vec![1, 2], vec![2], vec![]]), Ok(vec![2, 1, 0]));
    }

    #[test]
    fn a_cycle_is_found_without_those_who_only_wait_for_it() {
        assert_eq!(order(&[vec![0]]), Err(vec![0]));
        // 0 waits for the cycle 1 → 2 → 3 → 1; 4 is free.
        let after = [vec![1], vec![4, 2], vec![3], vec![1], vec![]];
        assert_eq!(order(&after), Err(vec![1, 2, 3]));
    }

    #[test]
    fn a_long_chain_is_no_recursion() {
        let after: Vec<_> =
            (0..2_000_usize).map(|n| n.checked_sub(1).into_iter().collect()).collect();
        assert_eq!(order(&after), Ok((0..2_000).collect()));
    }
}
