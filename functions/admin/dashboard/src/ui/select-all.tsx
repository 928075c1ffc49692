import { useEffect, useRef } from 'react';

interface Props {
  selected: number;
  of: number;
  onChange: (isSelected: boolean) => void;
}

/** The box in the header: half checked while some of the rows are selected. */
export function SelectAll({ selected, of, onChange }: Props) {
  const ref = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (ref.current) {
      ref.current.indeterminate = selected > 0 && selected < of;
    }
  }, [selected, of]);
  return (
    <label className="select-all">
      <input
        ref={ref}
        type="checkbox"
        checked={of > 0 && selected === of}
        onChange={(event) => onChange(event.target.checked)}
      />
      <span>Select all that are shown</span>
    </label>
  );
}
