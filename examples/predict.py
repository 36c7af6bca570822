"""Six sentences that the model has never seen: python examples/predict.py runs/demo."""

import sys
from pathlib import Path

import frostline as fl

SENTENCES = [
    "The battery died after a single day and nobody answers my mails.",
    "Screen is gorgeous, setup took two minutes, couldn't be happier with it.",
    "A tender, beautifully acted drama that earns every one of its tears.",
    "The plot collapses under its own weight long before the credits roll.",
    "gonna see my best friends tonight yayyy :D",
    "The committee will vote on the housing bill on Tuesday, officials said.",
]

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
model = fl.load(run)
answers, probabilities = model.predict(SENTENCES), model.predict_proba(SENTENCES)

print()
for i, sentence in enumerate(SENTENCES):
    said = [f"{answers[task][i]} {probabilities[task][i].max():.2f}" for task in model.tasks]
    print(f"  {'  '.join(f'{text:<14}' for text in said)}  {sentence}")
print(f"\nmodel     {run}/model    (SentenceTransformer('{run}/model') loads it too)")
print(f"pictures  {run}/trainability.png  {run}/curves.png")
print(f"report    {run}/report.json")
