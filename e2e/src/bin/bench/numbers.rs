//! Medians and quartiles.

pub fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let place = share * (values.len() - 1) as f64;
    let (low, high) = (
        values[place.floor() as usize],
        values[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}
