//! From values to places on a plot, and the values worth a line.

/// An axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    logarithmic: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A scale on which these values lie between `from` and `to`, with a little room. Not
    /// logarithmic, it begins at zero.
    pub(super) fn over(
        values: impl IntoIterator<Item = f64>,
        logarithmic: bool,
        from: f64,
        to: f64,
    ) -> Self {
        let mut low = f64::INFINITY;
        let mut high = f64::NEG_INFINITY;
        for value in values {
            if value.is_finite() && (!logarithmic || value > 0.0) {
                low = low.min(value);
                high = high.max(value);
            }
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        if logarithmic {
            (low, high) = (low / 1.15, high * 1.15);
            if high / low < 4.0 {
                let middle = (high * low).sqrt();
                (low, high) = (middle / 2.0, middle * 2.0);
            }
        } else {
            (low, high) = (low.min(0.0), if high > 0.0 { high * 1.05 } else { 1.0 });
        }
        Self { logarithmic, low, high, from, to }
    }

    /// The place of a value.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (self.to - self.from) * part.clamp(0.0, 1.0)
    }

    /// Round values on the scale, at most about ten, ascending.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.logarithmic { self.logarithmic_ticks() } else { self.even_ticks() }
    }

    fn logarithmic_ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let digits: &[f64] = match decades {
            ..2.2 => &[1.0, 2.0, 5.0],
            ..4.2 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let step = ((last - first) / 10 + 1) as usize;
        (first..=last)
            .step_by(step)
            .flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }

    fn even_ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|digit| digit * power)
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        (0..=10)
            .map(|index| f64::from(index) * step)
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Scale;

    #[test]
    fn values_keep_their_order_and_stay_inside() {
        for logarithmic in [true, false] {
            let values = [8.0, 40.0, 256.0, 4096.0];
            let scale = Scale::over(values, logarithmic, 10.0, 110.0);
            let places = values.map(|value| scale.at(value));
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
            assert!(places.iter().all(|place| (10.0..=110.0).contains(place)), "{places:?}");
            assert!((10.0..=110.0).contains(&scale.at(0.0)));
            assert!((10.0..=110.0).contains(&scale.at(1e12)));
        }
    }

    #[test]
    fn there_are_some_ticks_but_not_many() {
        for (low, high) in [(1.0, 1.0), (300.0, 520.0), (8.0, 1.7e7), (1e-3, 1e12), (90.0, 9e4)] {
            for logarithmic in [true, false] {
                let ticks = Scale::over([low, high], logarithmic, 0.0, 1.0).ticks();
                assert!((2..=14).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
                assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "{ticks:?}");
            }
        }
    }

    #[test]
    fn without_values_there_is_a_scale_all_the_same() {
        assert!(Scale::over([f64::NAN], true, 0.0, 1.0).at(5.0).is_finite());
        assert!(Scale::over([], false, 0.0, 1.0).at(5.0).is_finite());
    }
}
