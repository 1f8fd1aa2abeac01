"""EEG and peripheral signals: filtering, independent components, rejection."""
