//! Trains a small network to tell sawtooth waves from square waves: WAV files of different lengths in class folders,
//! which this program makes, in an emulator.
//!
//! cargo run --release --features audio --example train_audio

#[path = "support/bucket.rs"]
mod bucket;

use anyhow::{Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{AdamW, Conv1dConfig, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use dataflux::{DataLoader, DatafluxDataset, Labelled, Wav};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SAMPLE_RATE: u32 = 8_000;

/// A WAV file of one wave of random pitch, loudness and length.
fn wav(is_square: bool, rng: &mut StdRng) -> Vec<u8> {
    let (pitch, loudness) = (rng.random_range(100.0..400.0_f32), rng.random_range(0.3..0.9_f32));
    let frames = rng.random_range(SAMPLE_RATE / 4..SAMPLE_RATE / 2);
    let samples = (0..frames).map(|frame| {
        let phase = (frame as f32 * pitch / SAMPLE_RATE as f32).fract();
        let wave = if is_square { (phase - 0.5).signum() } else { 2.0 * phase - 1.0 };
        ((wave * loudness + rng.random_range(-0.05..0.05)) * 32_767.0) as i16
    });
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let length = data.len() as u32;
    [
        &b"RIFF"[..],
        &(36 + length).to_le_bytes(),
        b"WAVEfmt ",
        &16_u32.to_le_bytes(), // bytes of this header
        &1_u16.to_le_bytes(),  // integers
        &1_u16.to_le_bytes(),  // channels
        &SAMPLE_RATE.to_le_bytes(),
        &(2 * SAMPLE_RATE).to_le_bytes(), // bytes of a second
        &2_u16.to_le_bytes(),             // bytes of a frame
        &16_u16.to_le_bytes(),            // bits of a sample
        b"data",
        &length.to_le_bytes(),
        &data,
    ]
    .concat()
}

pub(crate) fn main() -> Result<()> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut files = |folder: &str, count: usize| -> Vec<_> {
        let name = |number: usize| format!("{folder}/{}/{number:03}.wav", ["saw", "square"][number % 2]);
        (0..count).map(|number| (name(number), wav(number % 2 == 1, &mut rng))).collect()
    };
    let (_emulator, client) = bucket::start([files("train", 200), files("test", 60)].concat())?;

    // Half a second; silence after shorter files.
    let decode = Labelled::new(Wav::new().mono().length(SAMPLE_RATE as usize / 2));
    let open = |part: &str| DatafluxDataset::open_with(client.clone(), &format!("gs://my-bucket/{part}/"));
    let (train, test) = (open("train")?.decode(decode), open("test")?.decode(decode));
    let train = DataLoader::builder(train).batch_size(20).shuffle(42).build()?;
    let test = DataLoader::builder(test).batch_size(60).build()?;

    let device = Device::Cpu;
    let vars = VarMap::new();
    let builder = VarBuilder::from_varmap(&vars, DType::F32, &device);
    let strided = Conv1dConfig { stride: 4, ..Conv1dConfig::default() };
    let first = candle_nn::conv1d(1, 16, 16, strided, builder.pp("first"))?;
    let second = candle_nn::conv1d(16, 16, 8, strided, builder.pp("second"))?;
    let last = candle_nn::linear(16, 2, builder.pp("last"))?;
    let scores = |waves: &Tensor| -> candle_core::Result<Tensor> {
        let maps = second.forward(&first.forward(waves)?.relu()?)?.relu()?;
        last.forward(&maps.max(D::Minus1)?)
    };

    let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW { lr: 0.005, ..ParamsAdamW::default() })?;
    for epoch in 0..8 {
        let mut loss = 0.0;
        for batch in train.epoch(epoch)? {
            let ((waves, _lengths), labels) = batch?.to_candle(&device)?;
            let of_batch = candle_nn::loss::cross_entropy(&scores(&waves)?, &labels)?;
            optimizer.backward_step(&of_batch)?;
            loss = of_batch.to_scalar::<f32>()?;
        }
        println!("epoch {epoch}: loss {loss:.3}");
    }

    let mut right = 0;
    for batch in test.epoch(0)? {
        let ((waves, _lengths), labels) = batch?.to_candle(&device)?;
        let guesses = scores(&waves)?.argmax(D::Minus1)?.to_dtype(DType::I64)?;
        right += guesses.eq(&labels)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()?;
    }
    println!("{right} of {} right", test.dataset().len());
    ensure!(right > 50, "the network has learnt too little");
    Ok(())
}
